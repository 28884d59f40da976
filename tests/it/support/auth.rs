//! Who may pull: Bearer tokens with scope and expiry, or Basic.

use std::collections::HashMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde_json::json;

use super::wire::{Reply, Request};

/// How a registry wants to be asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scheme {
    Open,
    Basic,
    Bearer,
}

#[derive(Debug)]
struct Token {
    scopes: Vec<String>,
    ends: Instant,
    /// Whom it was given to.
    user: Option<String>,
}

/// Credentials and the tokens given for them.
#[derive(Debug)]
pub struct Auth {
    pub scheme: Scheme,
    pub lifetime: Duration,
    /// User and password; without them every client gets a token.
    login: Mutex<Option<(String, String)>>,
    /// Others who may, besides.
    others: Mutex<HashMap<String, String>>,
    tokens: Mutex<HashMap<String, Token>>,
    /// No two tokens are the same, revoked ones included.
    given: AtomicU64,
}

impl Auth {
    pub fn new(scheme: Scheme, login: Option<(String, String)>, lifetime: Duration) -> Auth {
        Auth {
            scheme,
            lifetime,
            login: Mutex::new(login),
            others: Mutex::default(),
            tokens: Mutex::default(),
            given: AtomicU64::new(0),
        }
    }

    pub fn set_login(&self, user: &str, password: &str) {
        *self.login.lock().unwrap() = Some((user.into(), password.into()));
    }

    pub fn add_login(&self, user: &str, password: &str) {
        let mut others = self.others.lock().unwrap();
        others.insert(user.into(), password.into());
    }

    /// Who sent a request, if that was said by a token or a password.
    pub fn user_of(&self, request: &Request) -> Option<String> {
        let offered = request.header("authorization")?;
        if let Some(token) = offered.strip_prefix("Bearer ") {
            return self.tokens.lock().unwrap().get(token)?.user.clone();
        }
        let pair = BASE64_STANDARD
            .decode(offered.strip_prefix("Basic ")?)
            .ok()?;
        let pair = String::from_utf8(pair).ok()?;
        Some(pair.split_once(':')?.0.to_owned())
    }

    pub fn revoke_tokens(&self) {
        self.tokens.lock().unwrap().clear();
    }

    /// The 401 for a request that may not pass.
    pub fn refuse(&self, request: &Request, repo: Option<&str>, realm: &str) -> Option<Reply> {
        let scope = repo.map(|repo| format!("repository:{repo}:pull"));
        let challenge = match self.scheme {
            Scheme::Open => return None,
            Scheme::Basic if self.knows(request) => return None,
            Scheme::Basic => "Basic realm=\"fake registry\"".to_owned(),
            Scheme::Bearer => {
                let error = match self.check_token(request, scope.as_deref()) {
                    Ok(()) => return None,
                    Err(error) => error,
                };
                let scope = scope
                    .map(|scope| format!(",scope=\"{scope}\""))
                    .unwrap_or_default();
                format!("Bearer realm=\"{realm}\",service=\"fake\"{scope}{error}")
            }
        };
        let reply = Reply::error(401, "UNAUTHORIZED", "authentication required");
        Some(reply.with("WWW-Authenticate", challenge))
    }

    fn check_token(&self, request: &Request, scope: Option<&str>) -> Result<(), &'static str> {
        let offered = request.header("authorization").ok_or("")?;
        let tokens = self.tokens.lock().unwrap();
        let token = offered
            .strip_prefix("Bearer ")
            .and_then(|token| tokens.get(token));
        let token = token
            .filter(|token| token.ends > Instant::now())
            .ok_or(",error=\"invalid_token\"")?;
        let covered = scope.is_none_or(|scope| token.scopes.iter().any(|own| own == scope));
        if covered {
            Ok(())
        } else {
            Err(",error=\"insufficient_scope\"")
        }
    }

    /// Whether the request carries the right user and password.
    fn knows(&self, request: &Request) -> bool {
        let is = |user: &str, password: &str| {
            let pair = BASE64_STANDARD.encode(format!("{user}:{password}"));
            request.header("authorization") == Some(&format!("Basic {pair}"))
        };
        let mut others = self.others.lock().unwrap().clone().into_iter();
        if others.any(|(user, password)| is(&user, &password)) {
            return true;
        }
        let login = self.login.lock().unwrap();
        let Some((user, password)) = login.as_ref() else {
            return request.header("authorization").is_none();
        };
        is(user, password)
    }

    /// The token server's answer. OAuth2's POST is refused, as most registries do.
    pub fn exchange(&self, request: &Request) -> Reply {
        if request.method != "GET" {
            return Reply::error(405, "UNSUPPORTED", "use GET");
        }
        if !self.knows(request) {
            return Reply::error(401, "UNAUTHORIZED", "incorrect username or password");
        }
        let scopes: Vec<String> = request
            .query("scope")
            .iter()
            .flat_map(|scope| scope.split(' '))
            .map(str::to_owned)
            .collect();
        let user = self.user_of(request);
        let mut tokens = self.tokens.lock().unwrap();
        let name = format!(
            "fake.{}.{:x}",
            self.given.fetch_add(1, Ordering::Relaxed),
            std::ptr::from_ref(self).addr()
        );
        tokens.insert(
            name.clone(),
            Token {
                scopes,
                ends: Instant::now() + self.lifetime,
                user,
            },
        );
        Reply::json(
            200,
            &json!({"token": name, "access_token": name, "expires_in": self.lifetime.as_secs()}),
        )
    }
}
