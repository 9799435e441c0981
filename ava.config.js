export default {
  extensions: ['ts'],
  files: ['libs/**/*.test.ts', 'services/**/*.test.ts', 'deploy/**/*.test.ts', 'test/**/*.test.ts'],
  timeout: '3m',
  workerThreads: false,
  concurrency: 2,
};
