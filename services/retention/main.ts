import { runProgram, startService } from '#libs/service/run-service.ts';
import { retentionMigrations } from './adapters/postgres/migrations/index.ts';
import { readRetentionSettings } from './config.ts';
import { composeRetentionService } from './container.ts';

await runProgram('retention', process.env, retentionMigrations, () => {
  const settings = readRetentionSettings(process.env);
  return startService('retention', settings, retentionMigrations, (foundation) =>
    composeRetentionService(settings, foundation),
  );
});
