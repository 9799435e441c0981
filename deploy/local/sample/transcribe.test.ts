import { readFile } from 'node:fs/promises';
import test from 'ava';
import { parseWavHeader, transcribe } from './transcribe.ts';

const recording = (name: string) => readFile(new URL(`../../../test/data/audio/${name}.wav`, import.meta.url));

for (const name of ['consent-call', 'standup-note']) {
  test(`the words of ${name} lie in order inside the recording`, async (t) => {
    const wav = await recording(name);
    const { durationSeconds, sampleRateHz, channels, words } = transcribe(wav);
    const { dataBytes } = parseWavHeader(wav);
    t.is(durationSeconds, dataBytes / 2 / channels / sampleRateHz);
    t.true(words.length > 3);
    let last = 0;
    for (const { startSeconds, endSeconds } of words) {
      t.true(startSeconds >= last && endSeconds > startSeconds && endSeconds <= durationSeconds);
      last = endSeconds;
    }
  });
}

test('what is no recording is refused with the reason', async (t) => {
  t.throws(() => transcribe(Buffer.from('hello')), { message: /RIFF/ });
  const wav = await recording('standup-note');
  t.throws(() => transcribe(wav.subarray(0, 30)), { message: /no data chunk/ });
});
