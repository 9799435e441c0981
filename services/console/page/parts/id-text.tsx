import { ActionIcon, CopyButton, Group, Text, Tooltip } from '@mantine/core';
import { IconCheck, IconCopy } from '@tabler/icons-react';

interface IdTextProps {
  readonly id: string;
  /** Shows the last eight characters alone: of a UUIDv7 they are the random ones. */
  readonly short?: boolean;
}

/** An id that can be copied. */
export const IdText = ({ id, short = false }: IdTextProps) => (
  <Group gap={4} wrap="nowrap" component="span" display="inline-flex">
    <Text span className="mono wrap-anywhere" title={id}>
      {short ? `…${id.slice(-8)}` : id}
    </Text>
    <CopyButton value={id}>
      {({ copied, copy }) => (
        <Tooltip label={copied ? 'Copied' : 'Copy'}>
          <ActionIcon variant="subtle" color="gray" size="sm" onClick={copy} aria-label={`Copy ${id}`}>
            {copied ? <IconCheck size={14} aria-hidden /> : <IconCopy size={14} aria-hidden />}
          </ActionIcon>
        </Tooltip>
      )}
    </CopyButton>
  </Group>
);
