import { type CSSVariablesResolver, createTheme, DEFAULT_THEME } from '@mantine/core';

/** A calm, dense console: the system's font, small controls, one accent colour. */
export const theme = createTheme({
  primaryColor: 'blue',
  primaryShade: { light: 8, dark: 8 },
  autoContrast: true,
  defaultRadius: 'sm',
  fontFamily: 'system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", "DejaVu Sans", sans-serif',
  fontFamilyMonospace: 'ui-monospace, SFMono-Regular, Menlo, Consolas, "DejaVu Sans Mono", monospace',
  headings: { fontWeight: '600' },
  cursorType: 'pointer',
  respectReducedMotion: true,
  components: {
    Button: { defaultProps: { size: 'sm' } },
    Select: { defaultProps: { comboboxProps: { shadow: 'md' } } },
    Table: { defaultProps: { verticalSpacing: 8, horizontalSpacing: 'sm', fz: 'sm' } },
    Tooltip: {
      defaultProps: { withArrow: true, multiline: true, maw: 320, events: { hover: true, focus: true, touch: true } },
    },
    Modal: {
      defaultProps: {
        centered: true,
        styles: { title: { fontWeight: 600 } },
        closeButtonProps: { 'aria-label': 'Close' },
        overlayProps: { backgroundOpacity: 0.5, blur: 2 },
      },
    },
    Drawer: { defaultProps: { position: 'right', closeButtonProps: { 'aria-label': 'Close' } } },
    Badge: { defaultProps: { radius: 'sm' } },
    Notification: { defaultProps: { closeButtonProps: { 'aria-label': 'Dismiss' } } },
  },
});

const COLORS = Object.keys(DEFAULT_THEME.colors).filter((name) => name !== 'dark');

/** Mantine's colours, darkened or lightened where small text would have less contrast than WCAG AA asks for. */
export const cssVariables: CSSVariablesResolver = () => ({
  variables: {},
  light: {
    '--mantine-color-dimmed': 'var(--mantine-color-gray-7)',
    '--mantine-color-placeholder': 'var(--mantine-color-gray-7)',
    '--mantine-color-error': 'var(--mantine-color-red-9)',
    ...Object.fromEntries(
      COLORS.flatMap((name) => {
        const dark = `color-mix(in srgb, var(--mantine-color-${name}-9), black 30%)`;
        return [
          [`--mantine-color-${name}-light-color`, dark],
          [`--mantine-color-${name}-outline`, dark],
          [`--mantine-color-${name}-text`, dark],
        ];
      }),
    ),
  },
  dark: {
    '--mantine-color-dimmed': 'var(--mantine-color-dark-1)',
    '--mantine-color-placeholder': 'var(--mantine-color-dark-2)',
    '--mantine-color-error': 'var(--mantine-color-red-4)',
  },
});
