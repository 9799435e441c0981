import type { Command } from 'commander';
import { type CatalogueSubject, SubjectState } from '#gen/lethe/retention/v1/retention_pb.ts';
import type { Run } from '../context.ts';
import { EXIT, instantOf, nameOf, toTable } from '../output.ts';
import { enumNames, enumValue } from '../parse.ts';

function whyOf({ problem, observeNightsLeft, retireReason, retiredBy }: CatalogueSubject): string {
  if (observeNightsLeft > 0) return `${problem} only counted for ${observeNightsLeft} more nights`.trim();
  return problem || (retireReason && `${retiredBy}: ${retireReason}`);
}

const subjectRow = (subject: CatalogueSubject) => [
  subject.name,
  subject.owner,
  nameOf(SubjectState, subject.state),
  subject.ageOf,
  instantOf(subject.listTime),
  whyOf(subject),
];
const subjectTable = (subjects: readonly CatalogueSubject[]): string =>
  toTable(['SUBJECT', 'OWNER', 'STATE', 'AGE OF', 'LISTED', 'WHY'], subjects.map(subjectRow));

/** `lethe subjects …`: the catalogue of what owners hold that ages. */
export function addSubjectCommands(program: Command, run: Run): void {
  const subjects = program.command('subjects').description('what services hold that ages, and who holds it');

  subjects
    .command('list')
    .description('all subjects, and what keeps one from being purged')
    .option('--state <state>', `one of ${enumNames(SubjectState).join(', ')}`, enumValue(SubjectState))
    .action(({ state }: { state?: SubjectState }) =>
      run(
        async ({ lethe, print }) => {
          const found = await Array.fromAsync(lethe.retention.subjects.list(state ? { state } : {}));
          print(found, () => subjectTable(found));
          return EXIT.ok;
        },
        { asPlatform: true },
      ),
    );

  for (const [verb, description] of [
    ['confirm', 'confirm that its owner rightly reports another data set; until then it is not purged'],
    ['retire', 'take it out of the catalogue when its owner is gone for good; its rows are not touched'],
  ] as const) {
    subjects
      .command(`${verb} <subject>`)
      .description(description)
      .requiredOption('--reason <reason>', 'why, for the audit')
      .action((name: string, options: { reason: string }) =>
        run(
          async ({ lethe, print }) => {
            const subject = await lethe.retention.subjects[verb](name, options);
            print(subject, () => subjectTable([subject]));
            return EXIT.ok;
          },
          { asPlatform: true },
        ),
      );
  }
}
