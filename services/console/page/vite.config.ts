import { readdir, readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { brotliCompress, gzip } from 'node:zlib';
import react from '@vitejs/plugin-react';
import { defineConfig, type Plugin } from 'vite';

// What the server puts the nonce of a request in place of.
const NONCE_PLACE = '__CSP_NONCE__';

const COMPRESSED = /\.(js|css|svg)$/;

/** Writes a .gz and a .br beside each file that gains by it, so that the server compresses nothing. */
function compress(): Plugin {
  let folder = '';
  return {
    name: 'compress',
    apply: 'build',
    configResolved(config) {
      folder = join(config.root, config.build.outDir);
    },
    async closeBundle() {
      const names = await readdir(folder, { recursive: true });
      await Promise.all(
        names
          .filter((name) => COMPRESSED.test(name))
          .map(async (name) => {
            const path = join(folder, name);
            const bytes = await readFile(path);
            await writeFile(`${path}.gz`, await promisify(gzip)(bytes, { level: 9 }));
            await writeFile(`${path}.br`, await promisify(brotliCompress)(bytes));
          }),
      );
    },
  };
}

export default defineConfig({
  root: import.meta.dirname,
  plugins: [react(), compress()],
  html: { cspNonce: NONCE_PLACE },
  build: {
    outDir: 'dist',
    emptyOutDir: true,
    target: 'es2023',
    // The policy of the page allows no data: URL but images.
    assetsInlineLimit: 0,
    modulePreload: { polyfill: false },
    reportCompressedSize: false,
    // What the first load weighs is held by a test.
    chunkSizeWarningLimit: 1_500,
  },
});
