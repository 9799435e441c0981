import { endWithParent } from '#deploy/local/end-with-me.ts';

endWithParent();
