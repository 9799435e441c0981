import { Alert, Button, Center, Loader, Paper, Stack, Text, Title } from '@mantine/core';
import { IconAlertTriangle, IconLogin2 } from '@tabler/icons-react';
import type { ReactNode } from 'react';
import { Logo } from './parts/logo.tsx';
import { useSessionQuery } from './session.ts';

/** Shows the page to those who are signed in, and the way to sign in to everybody else. */
export function SessionGate({ children }: { readonly children: ReactNode }) {
  const session = useSessionQuery();
  if (session.data) return children;
  if (session.isPending) {
    return (
      <Center h="100dvh">
        <Loader aria-label="Loading" />
      </Center>
    );
  }
  return (
    <Center component="main" mih="100dvh" p="md">
      <Paper withBorder p="xl" w={380} maw="100%">
        {session.isError ? (
          <Stack>
            <Alert color="red" variant="light" title="Lethe cannot be reached" icon={<IconAlertTriangle aria-hidden />}>
              {session.error.message}
            </Alert>
            <Button variant="default" onClick={() => session.refetch()} loading={session.isFetching}>
              Try again
            </Button>
          </Stack>
        ) : (
          <SignIn />
        )}
      </Paper>
    </Center>
  );
}

function SignIn() {
  const { pathname, search } = window.location;
  const back = encodeURIComponent(`${pathname}${search}`);
  return (
    <Stack>
      <Logo size={40} />
      <div>
        <Title order={1} size="h3">
          Sign in to Lethe
        </Title>
        <Text c="dimmed" size="sm" mt={4}>
          Deletions, retention and incidents of your tenant, with proof.
        </Text>
      </div>
      <Button component="a" href={`/auth/sign-in?return_to=${back}`} leftSection={<IconLogin2 size={18} aria-hidden />}>
        Sign in
      </Button>
    </Stack>
  );
}
