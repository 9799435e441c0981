import { Code, ConnectError } from '@connectrpc/connect';
import { Alert, Anchor, Button, Group, List, Text } from '@mantine/core';
import { IconAlertTriangle } from '@tabler/icons-react';
import { Link } from '@tanstack/react-router';
import { BadRequestSchema, ErrorInfoSchema } from '#gen/google/rpc/error_details_pb.ts';
import { adviceOf } from './advice.ts';

interface ErrorAlertProps {
  readonly error: unknown;
  /** Shown as a button where the same may go well later. */
  readonly onRetry?: (() => unknown) | undefined;
  /** What did not work, where the sentence of the error alone leaves it open. */
  readonly title?: string;
}

const TITLES: Readonly<Partial<Record<Code, string>>> = {
  [Code.NotFound]: 'Not found',
  [Code.PermissionDenied]: 'Not permitted',
  [Code.Unauthenticated]: 'Not signed in',
  [Code.Unavailable]: 'Not available at the moment',
  [Code.DeadlineExceeded]: 'No answer in time',
  [Code.InvalidArgument]: 'Something in the request is wrong',
  [Code.FailedPrecondition]: 'Not possible as things stand',
  [Code.Aborted]: 'Not possible at this moment',
};

// What is asked for again will be refused again.
const LASTING: ReadonlySet<Code> = new Set([Code.NotFound, Code.PermissionDenied, Code.InvalidArgument]);

/** The reason of a service's refusal, e.g. `RUN_NOT_FOUND`; undefined where the error carries none. */
export const reasonOf = (error: unknown): string | undefined =>
  ConnectError.from(error).findDetails(ErrorInfoSchema)[0]?.reason;

/** An error as a person needs it: what happened, which fields are wrong, what to do, and the reason to search for. */
export function ErrorAlert({ error, onRetry, title }: ErrorAlertProps) {
  const { code, rawMessage } = toTold(error);
  const info = ConnectError.from(error).findDetails(ErrorInfoSchema)[0];
  const fields = ConnectError.from(error)
    .findDetails(BadRequestSchema)
    .flatMap(({ fieldViolations }) => fieldViolations);
  const advice = adviceOf(info?.reason, code);
  const operation = info?.metadata['operation_id'];
  return (
    <Alert
      color="red"
      variant="light"
      role="alert"
      icon={<IconAlertTriangle aria-hidden />}
      title={title ?? TITLES[code] ?? 'Something went wrong'}
      my="sm"
    >
      <Text size="sm" className="wrap-anywhere">
        {rawMessage}
      </Text>
      {fields.length > 0 && (
        <List size="sm" mt={4}>
          {fields.map(({ field, description }) => (
            <List.Item key={`${field} ${description}`}>
              <Text span className="mono">
                {field}
              </Text>{' '}
              {description}
            </List.Item>
          ))}
        </List>
      )}
      {advice && (
        <Text size="sm" mt={4} fw={500}>
          {advice}
        </Text>
      )}
      <Group gap="md" mt="xs">
        {onRetry && !LASTING.has(code) && (
          <Button size="xs" variant="default" onClick={() => onRetry()}>
            Try again
          </Button>
        )}
        {operation && (
          <Anchor size="sm" renderRoot={(props) => <Link {...props} to="/deletions/$id" params={{ id: operation }} />}>
            Show the operation under way
          </Anchor>
        )}
        {info && (
          <Text size="xs" c="dimmed" className="mono">
            {info.reason}
          </Text>
        )}
      </Group>
    </Alert>
  );
}

// A call that never reached the console has no sentence of a service.
function toTold(error: unknown): { code: Code; rawMessage: string } {
  const told = ConnectError.from(error);
  const isAnswer = told.findDetails(ErrorInfoSchema).length > 0;
  if (!isAnswer && /failed to fetch|networkerror|load failed/i.test(told.rawMessage)) {
    return {
      code: Code.Unavailable,
      rawMessage: 'The console does not answer. Check that it runs and that you are online.',
    };
  }
  return told;
}
