import { Anchor, Box, Group, Text, Title } from '@mantine/core';
import { useDocumentTitle } from '@mantine/hooks';
import { IconArrowLeft } from '@tabler/icons-react';
import { Link, type LinkProps } from '@tanstack/react-router';
import type { ReactNode } from 'react';

interface PageHeaderProps {
  /** The page's heading and, before ` · Lethe`, its document title. */
  readonly title: string;
  readonly description?: ReactNode;
  /** Beside the heading. */
  readonly badge?: ReactNode;
  readonly actions?: ReactNode;
  /** The list that this page belongs to. */
  readonly back?: { readonly to: LinkProps['to']; readonly label: string };
}

/** The head of a page: where it belongs, its heading, and what can be done. */
export function PageHeader({ title, description, badge, actions, back }: PageHeaderProps) {
  useDocumentTitle(`${title} · Lethe`);
  return (
    <Box component="header" mb="md">
      {back && (
        <Anchor
          size="sm"
          c="dimmed"
          mb={4}
          display="inline-block"
          renderRoot={(props) => <Link {...props} to={back.to as '/'} />}
        >
          <IconArrowLeft size={14} aria-hidden style={{ verticalAlign: '-2px' }} /> {back.label}
        </Anchor>
      )}
      <Group justify="space-between" align="flex-start" gap="sm">
        <Box miw={0} flex="1 1 260px">
          <Group gap="sm">
            <Title order={1} size="h3" className="wrap-anywhere">
              {title}
            </Title>
            {badge}
          </Group>
          {description && (
            <Text size="sm" c="dimmed" mt={2} component="div">
              {description}
            </Text>
          )}
        </Box>
        {actions && <Group gap="xs">{actions}</Group>}
      </Group>
    </Box>
  );
}
