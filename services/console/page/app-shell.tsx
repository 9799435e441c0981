import {
  Avatar,
  Badge,
  Box,
  Burger,
  Group,
  Menu,
  NavLink,
  SegmentedControl,
  AppShell as Shell,
  Text,
  UnstyledButton,
  useMantineColorScheme,
  VisuallyHidden,
} from '@mantine/core';
import { useDisclosure } from '@mantine/hooks';
import { Notifications } from '@mantine/notifications';
import {
  IconAlertCircle,
  IconClockExclamation,
  IconDeviceDesktop,
  IconFileText,
  IconHistory,
  IconLogout,
  IconMoon,
  IconPlayerPlay,
  IconServer2,
  IconShieldCheck,
  IconSun,
  IconTrash,
} from '@tabler/icons-react';
import { Link, Outlet, useLocation } from '@tanstack/react-router';
import { useEffect, useRef } from 'react';
import { Logo } from './parts/logo.tsx';
import { signOut, useSession } from './session.ts';

const NAVIGATION = [
  { to: '/runs', label: 'Runs', Icon: IconPlayerPlay },
  { to: '/jobs', label: 'Jobs', Icon: IconFileText },
  { to: '/environments', label: 'Environments', Icon: IconServer2 },
  { to: '/incidents', label: 'Incidents', Icon: IconAlertCircle },
  { to: '/retention', label: 'Retention', Icon: IconShieldCheck },
  { to: '/executions', label: 'Executions', Icon: IconHistory },
  { to: '/deletions', label: 'Deletions', Icon: IconTrash },
  { to: '/overdue', label: 'Overdue', Icon: IconClockExclamation },
] as const;

const SCHEMES = [
  { value: 'light', label: 'Light', Icon: IconSun },
  { value: 'dark', label: 'Dark', Icon: IconMoon },
  { value: 'auto', label: 'As the system', Icon: IconDeviceDesktop },
] as const;

const HEADER_HEIGHT = 52;
const NAVBAR_WIDTH = 208;

/** What is around every page: navigation, tenant, person. */
export function AppShell() {
  const [isOpen, { toggle, close }] = useDisclosure(false);
  const main = useRef<HTMLElement>(null);
  const { pathname } = useLocation();
  const last = useRef(pathname);
  // A new page is announced as one: the keyboard and the reader start at its beginning.
  useEffect(() => {
    if (last.current === pathname) return;
    last.current = pathname;
    close();
    main.current?.focus({ preventScroll: true });
  }, [pathname, close]);
  return (
    <Shell
      header={{ height: HEADER_HEIGHT }}
      navbar={{ width: NAVBAR_WIDTH, breakpoint: 'sm', collapsed: { mobile: !isOpen } }}
      padding={{ base: 'sm', sm: 'lg' }}
    >
      {/* Inside the router, since a notification may hold a link. */}
      <Notifications position="bottom-right" limit={4} containerWidth={400} />
      <a className="skip-link" href="#main">
        Skip to the page
      </a>
      <Shell.Header>
        <Group h="100%" px="md" justify="space-between" wrap="nowrap">
          <Group gap="sm" wrap="nowrap">
            <Burger
              opened={isOpen}
              onClick={toggle}
              hiddenFrom="sm"
              size="sm"
              aria-label={isOpen ? 'Close the navigation' : 'Open the navigation'}
              aria-expanded={isOpen}
              aria-controls="navigation"
            />
            <Logo size={26} />
            <Text fw={600} size="lg">
              Lethe
            </Text>
          </Group>
          <Person />
        </Group>
      </Shell.Header>
      <Shell.Navbar p="xs" id="navigation" aria-label="Pages">
        {NAVIGATION.map(({ to, label, Icon }) => {
          const isActive = pathname === to || pathname.startsWith(`${to}/`) || isBelow(pathname, to);
          return (
            <NavLink
              key={to}
              label={label}
              active={isActive}
              leftSection={<Icon size={18} stroke={1.6} aria-hidden />}
              py={7}
              style={{ borderRadius: 'var(--mantine-radius-sm)' }}
              renderRoot={(props) => (
                <Link
                  {...props}
                  to={to}
                  activeProps={{}}
                  aria-current={isActive ? 'page' : undefined}
                  onClick={close}
                />
              )}
            />
          );
        })}
      </Shell.Navbar>
      <Shell.Main id="main" ref={main} tabIndex={-1}>
        <Box maw={1280} mx="auto">
          <Outlet />
        </Box>
      </Shell.Main>
    </Shell>
  );
}

// A single run stands below /runs, and so on; a bulk deletion's receipt below /deletions.
const isBelow = (pathname: string, to: string): boolean =>
  to === '/deletions' && pathname.startsWith('/bulk-deletions');

function Person() {
  const { subject, tenant, role } = useSession();
  const { colorScheme, setColorScheme } = useMantineColorScheme();
  return (
    <Group gap="sm" wrap="nowrap" miw={0}>
      <Badge variant="default" tt="none" fw={500} size="lg" title="Your tenant" visibleFrom="xs">
        {tenant ?? 'No tenant'}
      </Badge>
      <Menu position="bottom-end" width={260} shadow="md">
        <Menu.Target>
          {/* Its name begins with the letters that are seen, so that it can be called by them. */}
          <UnstyledButton style={{ borderRadius: '50%' }}>
            <Avatar size={32} color="blue" name={subject} />
            <VisuallyHidden> Account of {subject}</VisuallyHidden>
          </UnstyledButton>
        </Menu.Target>
        <Menu.Dropdown>
          <Box px="sm" py={6}>
            <Text size="sm" fw={500} className="wrap-anywhere">
              {subject}
            </Text>
            <Text size="xs" c="dimmed">
              {[role ?? 'no role', tenant].filter(Boolean).join(' of ')}
            </Text>
          </Box>
          <Menu.Divider />
          <Box px="sm" py={6}>
            <Text size="xs" c="dimmed" mb={4} id="scheme-label">
              Appearance
            </Text>
            <SegmentedControl
              fullWidth
              size="xs"
              aria-labelledby="scheme-label"
              value={colorScheme}
              onChange={(value) => setColorScheme(value as typeof colorScheme)}
              data={SCHEMES.map(({ value, label, Icon }) => ({
                value,
                label: (
                  <span title={label}>
                    <Icon size={16} aria-hidden style={{ verticalAlign: '-3px' }} />
                    <VisuallyHidden>{label}</VisuallyHidden>
                  </span>
                ),
              }))}
            />
          </Box>
          <Menu.Divider />
          <Menu.Item leftSection={<IconLogout size={16} aria-hidden />} onClick={() => void signOut()}>
            Sign out
          </Menu.Item>
        </Menu.Dropdown>
      </Menu>
    </Group>
  );
}
