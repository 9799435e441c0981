import { Badge, type MantineColor } from '@mantine/core';

interface StateBadgeProps {
  readonly label: string;
  /** The colour of the dot; the label alone says what it means. */
  readonly color: MantineColor;
  /** Something is going on: the dot pulses. */
  readonly isActive?: boolean;
}

/** A state in words, with a dot whose colour is the same wherever the state means the same. */
export const StateBadge = ({ label, color, isActive = false }: StateBadgeProps) => (
  <Badge
    variant="dot"
    // The shade of gray that a dot has by default is not seen on a dark page.
    color={color === 'gray' ? 'gray.6' : color}
    size="md"
    tt="none"
    fw={500}
    miw="max-content"
    {...(isActive && { className: 'pulse' })}
  >
    {label}
  </Badge>
);
