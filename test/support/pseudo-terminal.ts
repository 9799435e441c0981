import { type ChildProcessWithoutNullStreams, spawn } from 'node:child_process';
import { once } from 'node:events';
import { until } from './test-stack.ts';

/** A program on a terminal of its own. */
export interface PseudoTerminal {
  /** Everything that was shown, with its control sequences. */
  shown(): string;
  /** Types keys; `\x03` is Ctrl-C. */
  type(keys: string): void;
  /** Resolves once the text is shown. */
  shows(text: string | RegExp): Promise<void>;
  /** The exit code. */
  readonly ended: Promise<number>;
}

// Python's pty gives the program a controlling terminal, by which Ctrl-C becomes SIGINT as from a keyboard.
const PYTHON = `
import fcntl, os, pty, select, struct, sys, termios
pid, fd = pty.fork()
if pid == 0:
    os.execv(sys.argv[2], sys.argv[2:])
fcntl.ioctl(fd, termios.TIOCSWINSZ, struct.pack('HHHH', 50, int(sys.argv[1]), 0, 0))
inputs = [fd, 0]
while True:
    ready, _, _ = select.select(inputs, [], [])
    if 0 in ready:
        keys = os.read(0, 1024)
        if keys: os.write(fd, keys)
        else: inputs.remove(0)
    if fd in ready:
        try: shown = os.read(fd, 65536)
        except OSError: break
        if not shown: break
        os.write(1, shown)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
`;

/** Starts a program on a terminal of so many columns. Needs python3. */
export function startOnTerminal(columns: number, program: string, args: readonly string[]): PseudoTerminal {
  const python: ChildProcessWithoutNullStreams = spawn('python3', ['-c', PYTHON, String(columns), program, ...args]);
  let shown = '';
  python.stdout.on('data', (chunk) => {
    shown += chunk;
  });
  python.stderr.on('data', (chunk) => {
    shown += chunk;
  });
  return {
    shown: () => shown,
    type: (keys) => void python.stdin.write(keys),
    shows: (text) =>
      until(`the terminal shows ${text}`, async () =>
        typeof text === 'string' ? shown.includes(text) : text.test(shown),
      ),
    ended: once(python, 'close').then(([code]) => code as number),
  };
}
