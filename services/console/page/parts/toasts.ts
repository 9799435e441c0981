/** How long a notification stays that offers something to click, in milliseconds. */
export const ACTION_TOAST_MS = 10_000;
