import { readFileSync } from 'node:fs';
import { type DescField, type DescMessage, fromBinary } from '@bufbuild/protobuf';
import { type DescriptorProto, FileDescriptorSetSchema } from '@bufbuild/protobuf/wkt';

// What `npm run generate` writes beside the generated code, which has no comments at run time.
const IMAGE = new URL('../../../../gen/image.binpb', import.meta.url);
// Their numbers in FileDescriptorProto and DescriptorProto, of which the path of a comment is made.
const [MESSAGES_OF_FILE, MESSAGES_OF_MESSAGE, FIELDS_OF_MESSAGE] = [4, 3, 2];

/** The comments of the contracts. */
export interface ContractComments {
  /** What the .proto says about a message or a field, as one paragraph. Undefined: nothing is known. */
  of(element: DescMessage | DescField): string | undefined;
}

/** Reads the comments of the contracts, of which there are none where gen/image.binpb was not made. */
export function readContractComments(image: URL = IMAGE): ContractComments {
  const comments = new Map<string, string>();
  for (const file of readFiles(image)) {
    const said = new Map(
      file.sourceCodeInfo?.location.map(({ path, leadingComments }) => [path.join(), leadingComments]),
    );
    const tell = (path: readonly number[], name: string): void => {
      const text = said.get(path.join())?.trim().replaceAll(/\s+/g, ' ');
      if (text) comments.set(name, text);
    };
    const visit = (message: DescriptorProto, path: readonly number[], parent: string): void => {
      const name = `${parent}.${message.name}`;
      tell(path, name);
      for (const [index, field] of message.field.entries())
        tell([...path, FIELDS_OF_MESSAGE, index], `${name}.${field.name}`);
      for (const [index, inner] of message.nestedType.entries())
        visit(inner, [...path, MESSAGES_OF_MESSAGE, index], name);
    };
    for (const [index, message] of file.messageType.entries()) visit(message, [MESSAGES_OF_FILE, index], file.package);
  }
  return {
    of: (element) =>
      comments.get(element.kind === 'field' ? `${element.parent.typeName}.${element.name}` : element.typeName),
  };
}

function readFiles(image: URL) {
  try {
    return fromBinary(FileDescriptorSetSchema, readFileSync(image)).file;
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return [];
    throw error;
  }
}
