/** How much of a resource is asked for: BASIC leaves out what may be large (AIP-157). */
export type View = 'BASIC' | 'FULL';
