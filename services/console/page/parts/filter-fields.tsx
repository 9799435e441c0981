import { Text, TextInput } from '@mantine/core';
import { useDebouncedCallback } from '@mantine/hooks';
import { IconSearch } from '@tabler/icons-react';
import { type ReactNode, useEffect, useState } from 'react';

interface FilterTextProps {
  readonly label: string;
  readonly placeholder: string;
  readonly value: string;
  /** Told a moment after somebody has stopped typing, and at once on Enter. */
  readonly onChange: (value: string) => void;
  /** Why this cannot be looked for, as a sentence; it is told at once, so that nothing goes on with what stood before. */
  readonly problemOf?: (value: string) => string | undefined;
  readonly width?: number;
  readonly icon?: ReactNode;
}

const PAUSE_MS = 350;

/** A text that a list is narrowed by. */
export function FilterText(props: FilterTextProps) {
  const { label, placeholder, value, onChange, problemOf = () => undefined, width = 190, icon } = props;
  const [text, setText] = useState(value);
  const tell = useDebouncedCallback(onChange, PAUSE_MS);
  useEffect(() => setText(value), [value]);
  return (
    <TextInput
      aria-label={label}
      placeholder={placeholder}
      leftSection={icon ?? <IconSearch size={15} aria-hidden />}
      w={{ base: '100%', xs: width }}
      spellCheck={false}
      value={text}
      error={problemOf(text.trim())}
      onChange={(event) => {
        const typed = event.currentTarget.value;
        setText(typed);
        tell(typed.trim());
        if (problemOf(typed.trim()) !== undefined) tell.flush();
      }}
      onKeyDown={(event) => {
        if (event.key === 'Enter') onChange(text.trim());
      }}
    />
  );
}

interface FilterDayProps {
  readonly label: string;
  /** Stands in the field, which shows nothing else while it is empty: `From`. */
  readonly word: string;
  /** YYYY-MM-DD; empty: none. */
  readonly value: string;
  readonly onChange: (day: string) => void;
}

/** A day that a list is narrowed by, in UTC. */
export const FilterDay = ({ label, word, value, onChange }: FilterDayProps) => (
  <TextInput
    type="date"
    aria-label={label}
    title={label}
    leftSection={
      <Text size="sm" c="dimmed" aria-hidden>
        {word}
      </Text>
    }
    leftSectionWidth={52}
    w={{ base: '100%', xs: 190 }}
    value={value}
    onChange={(event) => onChange(event.currentTarget.value)}
  />
);
