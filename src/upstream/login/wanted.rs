//! Which token is wanted: of which realm, as whom and for what; and how a realm is asked for it (distribution's token
//! specification).

use std::sync::Arc;

use http::header::{ACCEPT, ACCEPT_ENCODING, AUTHORIZATION, USER_AGENT};
use http::{Request as HttpRequest, Uri};
use http_body_util::Full;

use crate::headers::challenge::Challenge;
use crate::oci::name::Repository;
use crate::upstream::error::Error;
use crate::upstream::wire::http::{AGENT, Request, parse_uri};
use crate::upstream::wire::zone::Zone;

use super::credential::Credential;

/// Where tokens come from, and for which service.
#[derive(Debug, PartialEq, Eq, Hash)]
pub(super) struct Realm {
    pub(super) url: String,
    service: Option<String>,
    /// Where the host is that named it.
    pub(super) zone: Zone,
    /// That host, if upstream redirected to it: a token for one such host is not for another.
    named_by: Option<String>,
}

impl Realm {
    /// The first realm that challenges name, with the scope it asks for and the error it states. One that cannot be asked
    /// counts where nothing else can be answered. `named_by` is the host, if it is not upstream itself.
    pub(super) fn of<'a>(
        challenges: &'a [Challenge],
        zone: Zone,
        named_by: Option<&str>,
    ) -> Option<(Arc<Self>, Option<&'a str>, Option<&'a str>)> {
        let has_usable = challenges.iter().any(Challenge::is_usable);
        let mut counted = challenges
            .iter()
            .filter(|challenge| !has_usable || challenge.is_usable());
        counted.find_map(|challenge| {
            let Challenge::Bearer {
                realm,
                service,
                scope,
                error,
            } = challenge
            else {
                return None;
            };
            let realm = Arc::new(Self {
                url: realm.clone(),
                service: service.clone(),
                zone,
                named_by: named_by.map(str::to_owned),
            });
            Some((realm, scope.as_deref(), error.as_deref()))
        })
    }
}

/// As whom a token is asked for, and for whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Bearer {
    /// As the account, for the upstream itself: only that is shown the credential.
    Account,
    /// Without a credential, at the upstream itself, while the credential is held back.
    Anonymous,
    /// Without a credential, at a host that upstream redirects to.
    Elsewhere,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct TokenId {
    pub(super) bearer: Bearer,
    pub(super) realm: Arc<Realm>,
    /// More than one are separated by spaces.
    pub(super) scope: Option<String>,
}

impl TokenId {
    pub(super) fn new(bearer: Bearer, realm: Arc<Realm>, scope: Option<String>) -> Self {
        Self {
            bearer,
            realm,
            scope,
        }
    }

    /// The token of the same realm that allows nothing.
    pub(super) fn for_nothing(&self) -> Self {
        Self {
            scope: None,
            ..self.clone()
        }
    }

    /// The question to the realm, at the URL where it is asked.
    pub(super) fn request(
        &self,
        realm: &Uri,
        credential: Option<&Credential>,
    ) -> Result<Request, Error> {
        let mut query = form_urlencoded::Serializer::new(String::new());
        if let Some(service) = &self.realm.service {
            query.append_pair("service", service);
        }
        // Realms read one scope in each, as they get it from dockerd and containerd.
        for scope in self.scope.iter().flat_map(|all| all.split(' ')) {
            query.append_pair("scope", scope);
        }
        if let Some(credential) = credential {
            query.append_pair("account", &credential.user);
        }
        query.append_pair("client_id", "pierglass");
        let joint = if realm.query().is_some() { '&' } else { '?' };
        let mut request =
            HttpRequest::get(parse_uri(&format!("{realm}{joint}{}", query.finish()))?)
                .header(USER_AGENT, AGENT)
                .header(ACCEPT, "application/json")
                .header(ACCEPT_ENCODING, "identity");
        if let Some(credential) = credential {
            request = request.header(AUTHORIZATION, credential.basic()?);
        }
        request
            .body(Full::default())
            .map_err(|error| Error::wrong(error.to_string()))
    }
}

/// The scope for pulling from one repository.
pub(super) fn pull_scope(repository: &Repository) -> String {
    format!("repository:{repository}:pull")
}

/// The scopes to ask for, in the order they are tried. What a challenge asks for is asked for if that is about this
/// repository. It may be a placeholder (`repository:user/image:pull`) or about all that the registry has: then the
/// repository's own scope comes first, which is all that dockerd ever asks for.
pub(super) fn scopes(asked: Option<&str>, repository: Option<&Repository>) -> Vec<Option<String>> {
    let asked: Vec<_> = asked.unwrap_or_default().split_whitespace().collect();
    let stated = (!asked.is_empty()).then(|| asked.join(" "));
    let Some(repository) = repository else {
        return vec![stated];
    };
    let own = Some(pull_scope(repository));
    match stated {
        None => vec![own],
        Some(_) if asked.iter().any(|scope| allows_pull(scope, repository)) => vec![stated],
        Some(_) => vec![own, stated],
    }
}

fn allows_pull(scope: &str, repository: &Repository) -> bool {
    let named = scope
        .strip_prefix("repository:")
        .and_then(|rest| rest.rsplit_once(':'));
    named.is_some_and(|(name, actions)| {
        let mut actions = actions.split(',');
        name == repository.as_str() && actions.any(|action| matches!(action, "pull" | "*"))
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn asked_for(challenge: Option<&str>, repository: Option<&str>) -> Vec<String> {
        let repository = repository.map(|name| name.parse().unwrap());
        let scopes = scopes(challenge, repository.as_ref());
        scopes.into_iter().map(Option::unwrap_or_default).collect()
    }

    #[test]
    fn the_repositorys_own_scope_comes_before_one_that_is_not_about_it() {
        const OWN: &str = "repository:o/app:pull";
        for (challenge, expected) in [
            (None, &[OWN][..]),
            (Some(""), &[OWN]),
            (Some(" "), &[OWN]),
            (Some(OWN), &[OWN]),
            (
                Some("repository:o/app:push,pull"),
                &["repository:o/app:push,pull"],
            ),
            (Some("repository:o/app:*"), &["repository:o/app:*"]),
            (
                Some("repository:o/base:pull  repository:o/app:pull"),
                &["repository:o/base:pull repository:o/app:pull"],
            ),
            (
                Some("repository:user/image:pull"),
                &[OWN, "repository:user/image:pull"],
            ),
            (Some("aws"), &[OWN, "aws"]),
            (
                Some("repository:o/app:push"),
                &[OWN, "repository:o/app:push"],
            ),
            (Some("registry:catalog:*"), &[OWN, "registry:catalog:*"]),
        ] {
            assert_eq!(
                asked_for(challenge, Some("o/app")),
                expected,
                "{challenge:?}"
            );
        }
        assert_eq!(asked_for(Some("aws"), None), ["aws"]);
        assert_eq!(asked_for(None, None), [""]);
    }

    #[test]
    fn each_scope_is_a_parameter_of_its_own() {
        let challenge = [Challenge::Bearer {
            realm: "https://r.example/token?x=1".into(),
            service: Some("a b".into()),
            scope: None,
            error: None,
        }];
        let (realm, ..) = Realm::of(&challenge, Zone::Public, None).unwrap();
        let id = TokenId::new(Bearer::Account, realm, Some("repository:a:pull b".into()));
        let uri = "https://r.example/token?x=1".parse().unwrap();
        let request = id.request(&uri, None).unwrap();
        assert_eq!(
            request.uri().query(),
            Some("x=1&service=a+b&scope=repository%3Aa%3Apull&scope=b&client_id=pierglass")
        );
        let uri = "https://r.example/token".parse().unwrap();
        let request = id.for_nothing().request(&uri, None).unwrap();
        assert_eq!(
            request.uri().query(),
            Some("service=a+b&client_id=pierglass")
        );
    }

    proptest! {
        #[test]
        fn what_is_asked_for_first_allows_to_pull(challenge in "[a-z:,*/ ]{0,60}") {
            let repository = "o/app".parse().unwrap();
            let scopes = scopes(Some(&challenge), Some(&repository));
            let first = scopes[0].clone().unwrap();
            prop_assert!(first.split(' ').any(|scope| allows_pull(scope, &repository)), "{}", first);
            prop_assert!(scopes.len() <= 2);
        }
    }
}
