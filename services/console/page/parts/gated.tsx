import { Tooltip } from '@mantine/core';
import { cloneElement, type MouseEvent, type ReactElement } from 'react';

interface GatedProps {
  /** Why the control cannot be used, as a sentence; undefined where it can. */
  readonly because: string | undefined;
  /** One Mantine control, such as a Button. */
  readonly children: ReactElement<Record<string, unknown>>;
}

const refuse = (event: MouseEvent): void => {
  event.preventDefault();
  event.stopPropagation();
};

/** A control that is disabled with its reason. It can still be focused, so that the reason is found by keyboard too. */
export function Gated({ because, children }: GatedProps) {
  if (because === undefined) return children;
  return (
    <Tooltip label={because}>
      {cloneElement(children, { 'data-disabled': true, 'aria-disabled': true, disabled: false, onClick: refuse })}
    </Tooltip>
  );
}
