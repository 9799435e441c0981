import { Anchor, type AnchorProps } from '@mantine/core';
import { Link, type LinkProps } from '@tanstack/react-router';
import type { ReactNode } from 'react';

type TextLinkProps = AnchorProps & Pick<LinkProps, 'to' | 'params' | 'search'> & { readonly children: ReactNode };

/** A link to another page, in the look of Mantine's anchors. */
export const TextLink = ({ to, params, search, children, ...rest }: TextLinkProps) => (
  <Anchor
    size="sm"
    {...rest}
    renderRoot={(props) => (
      <Link {...props} {...({ to, ...(params && { params }), ...(search && { search }) } as object)} />
    )}
  >
    {children}
  </Anchor>
);
