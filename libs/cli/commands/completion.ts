import tab from '@bomb.sh/tab/commander';
import type { Command } from 'commander';
import { addExamples } from '../example.ts';

/** `lethe completion SHELL`, and the hidden command that its script calls. To be added after all others. */
export function addCompletionCommand(program: Command): void {
  tab(program, { completionCommandName: 'completion' });
  const completion = program.commands.find((command) => command.name() === 'completion');
  if (!completion) throw new Error('@bomb.sh/tab has added no command');
  completion.description('print the script by which a shell completes commands and options');
  addExamples(
    completion,
    'source <(lethe completion bash)',
    'lethe completion zsh > ~/.zfunc/_lethe',
    'lethe completion fish > ~/.config/fish/completions/lethe.fish',
  );
}
