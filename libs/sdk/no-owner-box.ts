import { UsageError } from '../cli/usage-error.ts';

// Stands in the package for what needs a database driver.
throw new UsageError('lethe owner needs a clone of Lethe or its image: this package has no database driver.');
