import type { Command } from 'commander';

/** Adds command lines to a command's help, each as somebody would type it. */
export const addExamples = (command: Command, ...lines: readonly string[]): Command =>
  command.addHelpText('after', `\nExamples:\n${lines.map((line) => `  ${line}`).join('\n')}`);
