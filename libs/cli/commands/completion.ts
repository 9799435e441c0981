import tab from '@bomb.sh/tab/commander';
import type { Argument, Command, Option } from 'commander';
import { addExamples } from '../example.ts';
import { choicesOf } from '../parse.ts';
import type { Terminal } from '../terminal.ts';

// Nothing that is typed is evaluated, no other package is needed, and it can be read in twice. Bash parts words at `=`.
const BASH = `# Completes lethe in bash: source <(lethe completion bash)
__lethe_complete() {
    local words=() word line current=\${COMP_WORDS[COMP_CWORD]} i
    for ((i = 1; i <= COMP_CWORD; i++)); do
        word=\${COMP_WORDS[i]}
        if ((\${#words[@]} > 0)) && [[ $word == = || \${words[-1]} == --*= ]]; then
            words[-1]+=$word
        else
            words+=("$word")
        fi
    done
    [[ $current == = ]] && current=
    COMPREPLY=()
    while IFS= read -r line; do
        line=\${line%%$'\\t'*}
        line=\${line#--*=}
        # The last line tells how to go on, and is no completion.
        [[ $line != :* && -n $line && $line == "$current"* ]] && COMPREPLY+=("$line")
    done < <(lethe complete -- "\${words[@]}" 2>/dev/null)
}
complete -o default -F __lethe_complete lethe`;

/** `lethe completion SHELL`, and the hidden command that its script calls. To be added after all others. */
export function addCompletionCommand(program: Command, terminal: Terminal): void {
  const forget = showChoices(program);
  const completions = tab(program, { completionCommandName: 'completion' });
  forget();
  const completion = program.commands.find((command) => command.name() === 'completion');
  if (!completion) throw new Error('@bomb.sh/tab has added no command');
  completion.description('print the script by which a shell completes commands, options and their values');
  completion.action((shell: string) => {
    if (shell === 'bash') terminal.out(BASH);
    else completions.setup(program.name(), program.name(), shell);
  });
  addExamples(
    completion,
    'source <(lethe completion bash)',
    'lethe completion zsh > ~/.zfunc/_lethe',
    'lethe completion fish > ~/.config/fish/completions/lethe.fish',
  );
}

/**
 * Lets every option and argument that takes a name of an enum tell its choices, until what it returns is called: help
 * names them in its own words.
 */
function showChoices(command: Command): () => void {
  const shown: (Option | Argument)[] = [];
  const visit = (each: Command): void => {
    for (const taker of [...each.options, ...each.registeredArguments]) {
      const choices = choicesOf(taker.parseArg);
      if (!choices || taker.argChoices) continue;
      taker.argChoices = [...choices];
      shown.push(taker);
    }
    each.commands.forEach(visit);
  };
  visit(command);
  return () => {
    for (const taker of shown) delete taker.argChoices;
  };
}
