import type { Command } from 'commander';
import { type CatalogueSubject, SubjectState } from '#gen/lethe/retention/v1/retention_pb.ts';
import type { Run } from '../context.ts';
import { addExamples } from '../example.ts';
import { addLimit, type ListOptions, printList } from '../list.ts';
import { instantOf, nameOf } from '../output.ts';
import { enumNames, enumValue } from '../parse.ts';
import { makeTable } from '../table.ts';

/** Why a subject is not purged, in a sentence; empty where nothing is the matter. */
export function whyOfSubject({ problem, observeNightsLeft, retireReason, retiredBy }: CatalogueSubject): string {
  if (observeNightsLeft > 0) return `${problem} only counted for ${observeNightsLeft} more nights`.trim();
  return problem || (retireReason && `${retiredBy}: ${retireReason}`);
}

const tableOf = makeTable<CatalogueSubject>({
  SUBJECT: ({ name }) => name,
  OWNER: ({ owner }) => owner,
  STATE: ({ state }) => nameOf(SubjectState, state),
  'AGE OF': ({ ageOf }) => ageOf,
  LISTED: ({ listTime }) => instantOf(listTime),
  WHY: whyOfSubject,
});

/** `lethe subjects …`: the catalogue of what owners hold that ages. */
export function addSubjectCommands(program: Command, run: Run): void {
  const subjects = program.command('subjects').description('what services hold that ages, and who holds it');

  addExamples(
    addLimit(subjects.command('list').description('all subjects, and what keeps one from being purged; for platform'))
      .option('--state <state>', `one of ${enumNames(SubjectState).join(', ')}`, enumValue(SubjectState))
      .action(({ state, ...options }: ListOptions & { state?: SubjectState }) =>
        run(async (context) => {
          const found = context.lethe.retention.subjects.list(state ? { state } : {});
          await printList(context, found, options, tableOf);
        }),
      ),
    'lethe subjects list',
  );

  for (const [verb, description, why] of [
    ['confirm', 'confirm that its owner rightly reports another data set; until then it is not purged', 'it was moved'],
    ['retire', 'take it out of the catalogue when its owner is gone for good; its rows are not touched', 'mail ended'],
  ] as const) {
    addExamples(
      subjects
        .command(`${verb} <subject>`)
        .description(description)
        .requiredOption('--reason <reason>', 'why, for the audit')
        .action((name: string, options: { reason: string }) =>
          run(async ({ lethe, print }) => {
            const subject = await lethe.retention.subjects[verb](name, options);
            print(subject, () => tableOf([subject]));
          }),
        ),
      `lethe subjects ${verb} messages --reason '${why}'`,
    );
  }
}
