//! A client must never be given what it is known to break on; each of these is named after one that does.
//!
//! The rows are those of the checklist of what clients need (which client, and where its source says so, is told at
//! each test). Rows that other files hold completely are only listed.
//!
//! | row | what | held by |
//! |---|---|---|
//! | 1 | three forms of paths, and no `v2` at all | `routing::every_way_to_name_a_registry_leads_there` |
//! | 2 | `ns` chooses, is echoed, goes no further | `routing::{ns_is_echoed_and_only_ns, an_unknown_registry_is_refused_and_never_dialled}`, `headers::upstream_is_asked_for_the_bytes_as_they_are`, `ownership::the_same_name_on_two_registries_is_two_things`, here `regclient_names_the_host_and_not_the_registry` |
//! | 3 | `library/` | `routing::every_way_to_name_a_registry_leads_there` |
//! | 4 | `/v2/` is open | `routing::the_base_is_open_under_every_prefix`, here `crane_is_let_in_without_a_challenge` |
//! | 5 | no challenge of upstream's is relayed | `auth::{a_challenge_that_cannot_be_met_is_not_relayed, what_a_client_sends_as_credentials_goes_nowhere}`, here `dockerd_is_never_challenged` |
//! | 6 | manifests: HEAD as GET, by digest after by tag, whatever is accepted | `headers::head_and_get_of_a_manifest_say_the_same`, `media_types`, here `dockerd_finds_...`, `containerd_gets_...`, `watchtower_...`, `renovate_...`, `oras_...`, `narrow` |
//! | 7 | headers at once | here `soci_gets_headers_within_three_seconds_on_a_cold_blob` |
//! | 8 | ranges of cold blobs | `ranges::ranges_of_a_cold_blob_are_parts_and_one_transfer`, `range_model`, here `stargz_...`, `overlaybd_...`, `containerd_is_never_given_a_200_to_a_range` |
//! | 9 | one range | `ranges`, `range_model`, here `regclient_may_ask_one_byte_past_the_end`, `dockerd_resumes_...`, `nydus_...` |
//! | 10 | several ranges | `range_model`, here `podman_...` |
//! | 11 | errors that send a client on, and never in circles | `headers::errors_are_answers_of_a_registry_as_well`, `tags::{nothing_is_called_unknown_unless_upstream_said_so, a_spent_quota_says_when_to_come_back}` |
//! | 12 | what fails after the header breaks off | `wrong_content`, `limits::wrong_bytes_that_pass_through_never_arrive_complete`, `protocols::a_wrong_blob_does_not_end_cleanly_over_http2`, `proxy::a_body_that_stalls_is_aborted_and_not_ended` |
//! | 13 | no encoding, neither way | `headers::{upstream_is_asked_for_the_bytes_as_they_are, head_and_get_of_a_blob_say_the_same}`, `media_types::an_encoded_manifest_is_not_taken_for_the_manifest` |
//! | 14 | no redirects | here `nydus_is_never_redirected` |
//! | 15, 16 | lists of tags, referrers, search | where these are implemented; that `/v1/` gives no page of HTML: `routing::docker_search_gets_no_page_it_could_mistake_for_results` |
//! | 17 | HTTP/1.1, many streams | `protocols`, here `podman_keeps_its_connections_for_all_it_asks`, `trivy_opens_a_connection_for_each_request` |
//! | 18 | any blob | `media_types::a_blob_may_be_anything` |

mod far;
mod finding;
mod narrow;
mod one_range;
mod several_ranges;
mod transport;

use http::StatusCode;

use crate::support::client::Response;
use crate::support::content::Content;
use crate::support::multipart::{content_range, parts};
use crate::support::{FakeRegistry, Mirror, REPO, client, until};

/// A blob, and where the mirror has it: nowhere.
struct Blob {
    content: Content,
    digest: String,
    url: String,
}

impl Blob {
    fn cold(registry: &FakeRegistry, mirror: &Mirror, seed: u64, size: u64) -> Blob {
        let digest = registry.put_generated_blob(REPO, seed, size);
        Blob {
            content: Content::generated(seed, size),
            url: mirror.blob_url(REPO, &digest),
            digest,
        }
    }

    async fn stored(registry: &FakeRegistry, mirror: &Mirror, seed: u64, size: u64) -> Blob {
        let blob = Blob::cold(registry, mirror, seed, size);
        client::download(&blob.url, &[]).await.unwrap();
        until("stored", async || {
            let head = client::head(&blob.url, &[]).await.unwrap();
            head.header("cache-status") == Some("pierglass; hit")
        })
        .await;
        blob
    }

    fn bytes(&self, first: u64, last: u64) -> Vec<u8> {
        let length = usize::try_from(last - first + 1).unwrap();
        self.content.read(first, length)
    }

    async fn range(&self, range: &str) -> Response {
        client::get(&self.url, &[("range", range)]).await.unwrap()
    }

    /// Asserts one part and nothing else.
    #[track_caller]
    fn assert_part(&self, answer: &Response, first: u64, last: u64) {
        assert_eq!(answer.status, StatusCode::PARTIAL_CONTENT, "{first}-{last}");
        let told = content_range(answer.header("content-range").unwrap());
        assert_eq!(told, (first, last, self.content.len()));
        let length = (last - first + 1).to_string();
        assert_eq!(answer.header("content-length"), Some(&*length));
        let kind = answer.header("content-type");
        assert_eq!(kind, Some("application/octet-stream"));
        assert_eq!(answer.header("accept-ranges"), Some("bytes"));
        assert!(
            answer.body == self.bytes(first, last),
            "{first}-{last}: other bytes"
        );
    }

    /// Asserts that the parts are these, in this order.
    #[track_caller]
    fn assert_parts(&self, answer: &Response, wanted: &[(u64, u64)]) {
        assert_eq!(
            answer.status,
            StatusCode::PARTIAL_CONTENT,
            "{}",
            answer.text().len()
        );
        assert_eq!(answer.header("content-range"), None);
        assert_eq!(answer.header("accept-ranges"), Some("bytes"));
        assert_eq!(answer.header("docker-content-digest"), Some(&*self.digest));
        assert_eq!(answer.header("transfer-encoding"), None);
        let length = answer.body.len().to_string();
        assert_eq!(answer.header("content-length"), Some(&*length));
        let found = parts(answer);
        assert_eq!(found.len(), wanted.len());
        for (part, (first, last)) in found.iter().zip(wanted) {
            assert_eq!(part.range, (*first, *last, self.content.len()));
            assert_eq!(part.content_type, "application/octet-stream");
            assert!(part.bytes == self.bytes(*first, *last), "{first}-{last}");
        }
    }
}
