import type { ComponentProps } from 'react';
import { ConfirmDialog } from './confirm-dialog.tsx';

/** A ConfirmDialog that asks for a reason and cannot be confirmed without one. */
export const ReasonDialog = (props: Omit<ComponentProps<typeof ConfirmDialog>, 'reason'>) => (
  <ConfirmDialog {...props} reason="required" />
);
