//! Who may ask the admin side what. Figures and health are for every program that reaches the address; the API is for
//! the owner of the socket, for those who know the token, or, on loopback and without either, for this machine.

use std::net::IpAddr;
use std::path::{Path, PathBuf};

use http::header::{AUTHORIZATION, WWW_AUTHENTICATE};
use http::{Request, StatusCode};

use super::api::ApiError;
use crate::secret::Secret;
use crate::server::browser::{Gate, Turned};

/// Stands before one of the places where the admin side can be asked.
pub(crate) struct Guard {
    gate: Option<Gate>,
    api: ApiRule,
}

enum ApiRule {
    Open,
    /// For those who send what this file holds.
    Token(PathBuf),
    /// Not here; says where it is.
    Closed(String),
}

impl Guard {
    /// Of the Unix socket: the permissions of its file say who may.
    pub(crate) fn of_socket() -> Self {
        Self {
            gate: None,
            api: ApiRule::Open,
        }
    }

    /// Of the address for metrics and health.
    pub(crate) fn of_address(
        address: IpAddr,
        allowed_hosts: &[String],
        token_file: Option<&Path>,
        socket: Option<&Path>,
    ) -> Self {
        let api = match (token_file, socket) {
            (Some(file), _) => ApiRule::Token(file.to_owned()),
            (None, Some(socket)) => ApiRule::Closed(format!(
                "the admin API is on the socket {}; to have it here as well set admin_token_file",
                socket.display()
            )),
            (None, None) if address.to_canonical().is_loopback() => ApiRule::Open,
            (None, None) => ApiRule::Closed(
                "the admin API is not open beyond loopback without a token; set admin_token_file, or admin_socket"
                    .to_owned(),
            ),
        };
        Self {
            gate: Some(Gate::new(address, allowed_hosts)),
            api,
        }
    }

    /// Refuses what a web page may have sent.
    pub(super) fn judge<B>(&self, request: &Request<B>, shown: bool) -> Result<(), Turned> {
        self.gate
            .as_ref()
            .map_or(Ok(()), |gate| gate.judge(request, shown))
    }

    /// Lets a request to the API pass, or says why not.
    pub(super) async fn admit<B>(&self, request: &Request<B>) -> Result<(), ApiError> {
        let file = match &self.api {
            ApiRule::Open => return Ok(()),
            ApiRule::Closed(why) => return Err(ApiError::new(StatusCode::FORBIDDEN, why)),
            ApiRule::Token(file) => file,
        };
        let sent = request
            .headers()
            .get(AUTHORIZATION)
            .and_then(|it| it.to_str().ok());
        let sent = sent
            .and_then(|it| it.strip_prefix("Bearer "))
            .map(str::trim);
        let sent = sent.map(|token| Secret::new(token.to_owned()));
        // Read each time, so that a new token counts at once. It may be slow: a file on a network.
        let path = file.clone();
        let token = tokio::task::spawn_blocking(move || read_token(&path)).await;
        let token = token
            .map_err(std::io::Error::other)
            .flatten()
            .map_err(|error| {
                tracing::error!(path = %file.display(), %error, "cannot read admin_token_file");
                ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "the token cannot be read")
            })?;
        if sent.is_some_and(|sent| is_same(sent.expose().as_bytes(), token.expose().as_bytes())) {
            return Ok(());
        }
        let words =
            "the admin API asks for the token in admin_token_file: Authorization: Bearer ...";
        Err(ApiError::new(StatusCode::UNAUTHORIZED, words).with(WWW_AUTHENTICATE, "Bearer"))
    }
}

/// Reads a file that holds a token and nothing else.
pub(crate) fn read_token(path: &Path) -> std::io::Result<Secret> {
    let text = Secret::new(std::fs::read_to_string(path)?);
    match text.expose().trim() {
        "" => Err(std::io::Error::other("it is empty")),
        token => Ok(Secret::new(token.to_owned())),
    }
}

/// Takes as long for a token that is nearly right as for any other of its length.
fn is_same(one: &[u8], other: &[u8]) -> bool {
    let differing = one.iter().zip(other).fold(0, |all, (a, b)| all | (a ^ b));
    one.len() == other.len() && differing == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_the_same_or_not() {
        assert!(is_same(b"secret", b"secret"));
        for other in [&b"secreT"[..], b"secre", b"secrets", b"", b"Secret"] {
            assert!(!is_same(b"secret", other));
        }
    }
}
