import { chmod, mkdir, readFile, rename, rm, stat, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import type { Addresses } from '#libs/client/services.ts';
import type { ClientTlsFiles } from '#libs/grpc/tls.ts';
import type { Role } from '#libs/kernel/caller.ts';
import { UsageError } from './usage-error.ts';

/** What a profile keeps; paths are absolute. */
export interface StoredProfile {
  readonly addresses?: Addresses;
  /** A private JWK that signs tokens. */
  readonly keyFile?: string;
  /** A bearer token. */
  readonly token?: string;
  readonly tenant?: string;
  readonly role?: Role;
  /** Who acts, where the key signs. */
  readonly actor?: string;
  readonly tls?: Partial<ClientTlsFiles>;
  readonly issuer?: string;
  readonly audience?: string;
}

/** The profiles of a user. */
export interface Profiles {
  /** The one that is used where none is named. */
  readonly current?: string;
  readonly profiles: Readonly<Record<string, StoredProfile>>;
}

const FILE = 'profiles.json';
const NAME = /^[a-z0-9][a-z0-9_-]{0,62}$/;

/** Reads the name of a profile. */
export function profileName(name: string): string {
  if (NAME.test(name)) return name;
  throw new UsageError(`${name} names no profile: a name is 1 to 63 of a-z, 0-9, _ and -`);
}

/** The user's profiles; none where the file is not there. A UsageError where it is no JSON or others can read it. */
export async function readProfiles(folder: string): Promise<Profiles> {
  const path = join(folder, FILE);
  const found = await stat(path).catch(() => undefined);
  if (!found) return { profiles: {} };
  if (process.platform !== 'win32' && (found.mode & 0o077) !== 0) {
    throw new UsageError(`${path} holds secrets and can be read by others; run: chmod 600 ${path}`);
  }
  try {
    const value = JSON.parse(await readFile(path, 'utf8')) as Partial<Profiles>;
    if (typeof value.profiles === 'object' && value.profiles !== null) return value as Profiles;
  } catch {
    // Told below, without the text.
  }
  throw new UsageError(`${path} does not hold profiles; move it away and sign in again with \`lethe login\``);
}

/** Keeps the profiles, whole or not at all, in a file that only the user can read. */
export async function writeProfiles(folder: string, profiles: Profiles): Promise<void> {
  const part = join(folder, `${FILE}.${process.pid}`);
  try {
    await mkdir(folder, { recursive: true, mode: 0o700 });
    await writeFile(part, `${JSON.stringify(profiles, undefined, 2)}\n`, { mode: 0o600 });
    await chmod(part, 0o600);
    await rename(part, join(folder, FILE));
  } catch (error) {
    await rm(part, { force: true });
    throw new UsageError(`profiles cannot be kept in ${folder}: ${(error as NodeJS.ErrnoException).code}`);
  }
}
