import { runProgram, startService } from '#libs/service/run-service.ts';
import { incidentMigrations } from './adapters/postgres/migrations/index.ts';
import { readIncidentSettings } from './config.ts';
import { composeIncidentService } from './container.ts';

await runProgram('incident', process.env, incidentMigrations, () => {
  const settings = readIncidentSettings(process.env);
  return startService('incident', settings, incidentMigrations, (foundation) =>
    composeIncidentService(settings, foundation),
  );
});
