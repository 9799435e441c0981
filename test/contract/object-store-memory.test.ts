import test from 'ava';
import { makeMemoryObjectStore } from '#test/support/memory-object-store.ts';
import { declaring, objectStoreContract } from './object-store.ts';

// The one that unit tests use: what they prove holds for a store that keeps the contract.
const store = makeMemoryObjectStore();
objectStoreContract(declaring(test), 'memory store', () => store, true);
