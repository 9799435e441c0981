import { fileURLToPath } from 'node:url';
import { defineConfig } from 'tsdown';

const here = (path: string): string => fileURLToPath(new URL(path, import.meta.url));

export default defineConfig({
  cwd: here('.'),
  entry: { index: 'index.ts', lethe: '../cli/lethe.ts' },
  outDir: 'dist',
  format: 'esm',
  platform: 'node',
  target: 'node22',
  fixedExtension: false,
  dts: { entry: 'index.ts' },
  tsconfig: here('tsconfig.json'),
  plugins: [
    {
      name: 'without-database-driver',
      resolveId(id: string) {
        return /^#libs\/owner-box\/(serve|prepare)\.ts$/.test(id) ? here('no-owner-box.ts') : undefined;
      },
    },
  ],
});
