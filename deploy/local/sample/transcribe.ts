/** One stretch of speech in a recording; times are seconds from its beginning. */
export interface Word {
  readonly startSeconds: number;
  readonly endSeconds: number;
  readonly text: string;
}

/** What the sample's worker writes as a job's output. */
export interface Transcript {
  readonly durationSeconds: number;
  readonly sampleRateHz: number;
  readonly channels: number;
  readonly words: readonly Word[];
}

interface WavFormat {
  readonly channels: number;
  readonly sampleRateHz: number;
  readonly bitsPerSample: number;
  readonly dataOffset: number;
  readonly dataBytes: number;
}

const FRAME_SECONDS = 0.02;
const PAUSE_SECONDS = 0.05;

/** Reads the RIFF header of a PCM recording; throws an Error that says what is missing. */
export function parseWavHeader(wav: Buffer): WavFormat {
  if (wav.length < 12 || wav.toString('latin1', 0, 4) !== 'RIFF' || wav.toString('latin1', 8, 12) !== 'WAVE') {
    throw new Error('not a RIFF/WAVE file');
  }
  let format: Pick<WavFormat, 'channels' | 'sampleRateHz' | 'bitsPerSample'> | undefined;
  for (let offset = 12; offset + 8 <= wav.length; ) {
    const id = wav.toString('latin1', offset, offset + 4);
    const bytes = wav.readUInt32LE(offset + 4);
    const body = offset + 8;
    if (id === 'fmt ' && body + 16 <= wav.length) {
      format = {
        channels: wav.readUInt16LE(body + 2),
        sampleRateHz: wav.readUInt32LE(body + 4),
        bitsPerSample: wav.readUInt16LE(body + 14),
      };
    }
    if (id === 'data') {
      if (!format) throw new Error('the data chunk comes before the fmt chunk');
      return { ...format, dataOffset: body, dataBytes: Math.min(bytes, wav.length - body) };
    }
    offset = body + bytes + (bytes % 2);
  }
  throw new Error('no data chunk');
}

/**
 * Word timing of a 16-bit PCM recording: a word is a stretch of frames louder than a quarter of the recording's
 * mean loudness, parted from the next by a pause. It tells when somebody speaks, not what is said: the text is a
 * number. Throws an Error for what is no 16-bit PCM WAV.
 */
export function transcribe(wav: Buffer): Transcript {
  const { channels, sampleRateHz, bitsPerSample, dataOffset, dataBytes } = parseWavHeader(wav);
  if (bitsPerSample !== 16 || channels === 0 || sampleRateHz === 0) throw new Error('only 16-bit PCM is read');
  const frameBytes = Math.round(sampleRateHz * FRAME_SECONDS) * channels * 2;
  const loudness: number[] = [];
  for (let offset = dataOffset; offset + frameBytes <= dataOffset + dataBytes; offset += frameBytes) {
    let sum = 0;
    for (let at = offset; at < offset + frameBytes; at += 2) sum += Math.abs(wav.readInt16LE(at));
    loudness.push(sum / (frameBytes / 2));
  }
  const threshold = loudness.reduce((sum, value) => sum + value, 0) / Math.max(1, loudness.length) / 4;
  const spans: { start: number; end: number }[] = [];
  for (const [index, value] of loudness.entries()) {
    if (value <= threshold) continue;
    const last = spans.at(-1);
    if (last && (index - last.end) * FRAME_SECONDS < PAUSE_SECONDS) last.end = index + 1;
    else spans.push({ start: index, end: index + 1 });
  }
  return {
    durationSeconds: dataBytes / (sampleRateHz * channels * 2),
    sampleRateHz,
    channels,
    words: spans.map(({ start, end }, index) => ({
      startSeconds: Number((start * FRAME_SECONDS).toFixed(2)),
      endSeconds: Number((end * FRAME_SECONDS).toFixed(2)),
      text: `word ${index + 1}`,
    })),
  };
}
