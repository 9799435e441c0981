import type { ReactNode } from 'react';
import { useSession } from '../session.ts';
import { EmptyNote } from './empty-note.tsx';

/** Shows what belongs to a tenant, or says that the sign-in names none, as that of a platform operator may. */
export function NeedsTenant({ children }: { readonly children: ReactNode }) {
  const { tenant } = useSession();
  if (tenant) return children;
  return <EmptyNote>Your sign-in names no tenant, and what is here belongs to one.</EmptyNote>;
}
