"""Verifies the tokens that RetentionService calls with: see proto/lethe/owner/v1/owner_service.proto."""

import json
import os
from dataclasses import dataclass

import jwt

# An allow-list, so that a token's own header cannot choose `none` or a symmetric algorithm.
ALGORITHMS = ["EdDSA", "ES256", "RS256"]
MAX_SECONDS = 60
# RetentionService's clock may be this far off.
LEEWAY_SECONDS = 40


@dataclass(frozen=True)
class Caller:
    """What a verified token says. The tenant of a call is the token's and never the request's."""

    actor: str
    role: str | None
    service: str | None
    scopes: frozenset[str]
    tenant: str | None
    subject: str | None
    operation_id: str | None


class TokenInvalid(Exception):
    """There is no token, or it is not one for this owner. The caller is not told more."""


class KeysUnavailable(Exception):
    """The key set cannot be fetched, which is no fault of the token."""


class TokenVerifier:
    def __init__(self, jwks: str, issuer: str, owner: str) -> None:
        """`jwks` is a file, read again when it changes, or an http(s) URL. `owner` is the name in Lethe's settings."""
        self._jwks = jwks
        self._issuer = issuer
        self._audience = f"lethe-owner:{owner}"
        self._remote = jwt.PyJWKClient(jwks) if jwks.startswith(("http:", "https:")) else None
        self._changed_at = 0.0
        self._keys = None if self._remote else self._read()

    def verify(self, authorization: str | None) -> Caller:
        scheme, _, token = (authorization or "").partition(" ")
        if scheme.lower() != "bearer" or not token:
            raise TokenInvalid
        try:
            claims = jwt.decode(
                token,
                self._key(token),
                algorithms=ALGORITHMS,
                audience=self._audience,
                issuer=self._issuer,
                leeway=LEEWAY_SECONDS,
                options={"require": ["exp", "iat", "sub"]},
            )
        except jwt.PyJWKClientConnectionError as error:
            raise KeysUnavailable from error
        except (jwt.PyJWTError, KeyError) as error:
            raise TokenInvalid from error
        # A token that were good for others as well would carry what it allows here to them.
        if claims["aud"] not in (self._audience, [self._audience]) or claims["exp"] - claims["iat"] > MAX_SECONDS:
            raise TokenInvalid
        act = claims.get("act")
        if not isinstance(act, dict):
            raise TokenInvalid
        return Caller(
            actor=claims["sub"],
            role=claims.get("role"),
            service=act.get("sub"),
            scopes=frozenset(str(claims.get("scope", "")).split()),
            tenant=claims.get("tenant"),
            subject=claims.get("subject_name"),
            operation_id=claims.get("operation_id"),
        )

    def _key(self, token: str) -> jwt.PyJWK:
        if self._remote is not None:
            return self._remote.get_signing_key_from_jwt(token)
        try:
            self._keys = self._read()
        except (OSError, ValueError, jwt.PyJWTError):
            pass  # It is being replaced; the keys read before still hold.
        return self._keys[jwt.get_unverified_header(token)["kid"]]

    def _read(self) -> jwt.PyJWKSet:
        changed_at = os.stat(self._jwks).st_mtime
        if changed_at == self._changed_at:
            return self._keys
        with open(self._jwks, encoding="utf-8") as file:
            keys = jwt.PyJWKSet.from_dict(json.load(file))
        self._changed_at = changed_at
        return keys
