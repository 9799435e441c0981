import { DATABASE_FAULTS } from './database-faults.ts';
import type { Fault } from './fault.ts';
import { NEIGHBOUR_FAULTS } from './neighbour-faults.ts';
import { OBJECT_STORE_FAULTS } from './object-store-faults.ts';

/** Every fault that Lethe is tried with, in the order of the table. */
export const FAULTS: readonly Fault[] = [...DATABASE_FAULTS, ...OBJECT_STORE_FAULTS, ...NEIGHBOUR_FAULTS];
