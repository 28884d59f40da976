//! A client must never be given what it is known to break on; each of these is named after one that does.
//!
//! The rows are those of the checklist of what clients need (which client, and where its source says so, is told at each
//! test). Rows that other files hold completely are only listed.
//!
//! | row | what | held by |
//! |---|---|---|
//! | 1 | three forms of paths, and no `v2` at all | `routing::every_way_to_name_a_registry_leads_there` |
//! | 2 | `ns` chooses, is echoed, goes no further | `routing::{ns_is_echoed_and_only_ns, an_unknown_registry_is_refused_and_never_dialled}`, `headers::upstream_is_asked_for_the_bytes_as_they_are`, `ownership::the_same_name_on_two_registries_is_two_things`, here `regclient_names_the_host_and_not_the_registry` |
//! | 3 | `library/` | `routing::every_way_to_name_a_registry_leads_there` |
//! | 4 | `/v2/` is open | `routing::the_base_is_open_under_every_prefix`, here `crane_is_let_in_without_a_challenge` |
//! | 5 | no challenge of upstream's is relayed | `auth::{a_challenge_that_cannot_be_met_is_not_relayed, what_a_client_sends_as_credentials_goes_nowhere}`, here `dockerd_is_never_challenged` |
//! | 6 | manifests: HEAD as GET, by digest after by tag, whatever is accepted | `headers::head_and_get_of_a_manifest_say_the_same`, `media_types`, here `dockerd_finds_...`, `containerd_gets_...`, `watchtower_...`, `renovate_...`, `oras_...` |
//! | 7 | headers at once | here `soci_gets_headers_within_three_seconds_on_a_cold_blob` |
//! | 8 | ranges of cold blobs | `ranges::ranges_of_a_cold_blob_are_parts_and_one_transfer`, `range_model`, here `stargz_...`, `overlaybd_...`, `containerd_is_never_given_a_200_to_a_range` |
//! | 9 | one range | `ranges`, `range_model`, here `regclient_may_ask_one_byte_past_the_end`, `dockerd_resumes_...`, `nydus_...` |
//! | 10 | several ranges | `range_model`, here `podman_...` |
//! | 11 | errors that send a client on, and never in circles | `headers::errors_are_answers_of_a_registry_as_well`, `tags::{nothing_is_called_unknown_unless_upstream_said_so, a_spent_quota_says_when_to_come_back}` |
//! | 12 | what fails after the header breaks off | `wrong_content`, `limits::wrong_bytes_that_pass_through_never_arrive_complete`, `server::a_wrong_blob_does_not_end_cleanly_over_http2`, `proxy::a_body_that_stalls_is_aborted_and_not_ended` |
//! | 13 | no encoding, neither way | `headers::{upstream_is_asked_for_the_bytes_as_they_are, head_and_get_of_a_blob_say_the_same}`, `media_types::an_encoded_manifest_is_not_taken_for_the_manifest` |
//! | 14 | no redirects | here `nydus_is_never_redirected` |
//! | 15, 16 | lists of tags, referrers, search | where these are implemented; that `/v1/` gives no page of HTML: `routing::docker_search_gets_no_page_it_could_mistake_for_results` |
//! | 17 | HTTP/1.1, many streams | `server`, here `podman_keeps_its_connections_for_all_it_asks`, `trivy_opens_a_connection_for_each_request` |
//! | 18 | any blob | `media_types::a_blob_may_be_anything` |

use std::time::Duration;

use http::{Method, StatusCode};

use crate::support::client::{Client, Downloading, Raw, Response};
use crate::support::content::Content;
use crate::support::image::{DOCKER_LIST, DOCKER_MANIFEST, OCI_INDEX, OCI_MANIFEST};
use crate::support::multipart::{content_range, parts};
use crate::support::{
    FakeRegistry, Fault, Image, Index, Mirror, MirrorConfig, On, client, digest_of, until,
};

const REPO: &str = "acme/app";
const MIB: u64 = 1024 * 1024;

fn start() -> (FakeRegistry, Mirror) {
    let registry = FakeRegistry::builder().start_now();
    let mirror = Mirror::start(MirrorConfig::for_upstream(&registry));
    (registry, mirror)
}

fn with_index() -> (FakeRegistry, Mirror, Index) {
    let (registry, mirror) = start();
    let index = Index::of(&[Image::random(1, &[5000]), Image::random(2, &[100])]);
    registry.put_index(REPO, Some("1.0"), &index);
    (registry, mirror, index)
}

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

// Row 2.

/// `scheme/reg`: `ns` is the host that would be asked otherwise, `registry-1.docker.io` for Docker Hub.
#[tokio::test]
async fn regclient_names_the_host_and_not_the_registry() {
    let (registry, mirror, index) = with_index();
    for ns in ["registry-1.docker.io", "docker.io", "index.docker.io"] {
        let url = format!("{}?ns={ns}", mirror.manifest_url(REPO, "1.0"));
        let answer = client::get(&url, &[]).await.unwrap();
        assert_eq!(answer.body, index.bytes, "{ns}");
    }
    assert_eq!(registry.counts().manifest_gets, 1, "one registry, one tag");
}

// Rows 4 and 5.

/// go-containerregistry `transport/ping.go`: 200 or 401, anything else is not a registry.
#[tokio::test]
async fn crane_is_let_in_without_a_challenge() {
    let registry = FakeRegistry::builder().bearer(None).start().await;
    let mirror = Mirror::start(MirrorConfig::for_upstream(&registry));
    for method in [Method::GET, Method::HEAD] {
        let url = format!("{}/v2/", mirror.url());
        let answer = client::request(method, &url, &[]).await.unwrap();
        assert_eq!(answer.status, StatusCode::OK);
        assert_eq!(answer.header("www-authenticate"), None);
        assert_eq!(answer.header("x-registry-supports-signatures"), None);
        assert_eq!(answer.header("location"), None);
    }
}

/// moby `registry/auth.go`: whoever challenges is sent the user's password for Docker Hub.
#[tokio::test]
async fn dockerd_is_never_challenged() {
    let registry = FakeRegistry::builder()
        .basic("somebody", "else")
        .start()
        .await;
    let image = Image::random(1, &[100]);
    registry.put_image(REPO, Some("1.0"), &image);
    let mirror = Mirror::start(MirrorConfig::for_upstream(&registry));
    for url in [
        format!("{}/v2/", mirror.url()),
        mirror.manifest_url(REPO, "1.0"),
        mirror.manifest_url(REPO, &image.digest),
        mirror.blob_url(REPO, &image.blobs()[0]),
    ] {
        for method in [Method::HEAD, Method::GET] {
            let answer = client::request(method, &url, &[]).await.unwrap();
            assert_ne!(answer.status, StatusCode::UNAUTHORIZED, "{url}");
            assert_eq!(answer.header("www-authenticate"), None, "{url}");
        }
    }
}

// Row 6.

/// moby `vendor/github.com/docker/distribution/registry/client/repository.go`, `descriptorFromResponse`: all three, or the
/// mirror is passed over; then a GET by that digest. The media types come one a line, in the order of a Go map.
#[tokio::test]
async fn dockerd_finds_the_digest_length_and_type_on_head() {
    let (registry, mirror, index) = with_index();
    let mut accepts = [DOCKER_MANIFEST, DOCKER_LIST, OCI_MANIFEST, OCI_INDEX];
    for turn in 0..4 {
        accepts.rotate_left(turn);
        let lines = accepts.map(|accept| ("accept", accept));
        let url = mirror.manifest_url(REPO, "1.0");
        let head = client::head(&url, &lines).await.unwrap();
        assert_eq!(head.status, StatusCode::OK);
        let length = index.bytes.len().to_string();
        assert_eq!(head.header("content-length"), Some(&*length));
        assert_eq!(head.header("content-type"), Some(OCI_INDEX));
        let digest = head.header("docker-content-digest").unwrap();
        assert_eq!(digest, index.digest);
        let got = client::get(&mirror.manifest_url(REPO, digest), &lines)
            .await
            .unwrap();
        assert_eq!(got.header("content-type"), Some(OCI_INDEX));
        assert_eq!(got.body, index.bytes);
        let child = mirror.manifest_url(REPO, &index.images[0].digest);
        let got = client::get(&child, &lines).await.unwrap();
        assert_eq!(got.body, index.images[0].manifest);
    }
    let counts = registry.counts();
    assert_eq!(
        (counts.manifest_heads, counts.manifest_gets),
        (1, 2),
        "the order is no key"
    );
}

/// containerd `core/remotes/docker/resolver.go`: the type on HEAD is the descriptor's, and with it the following GET.
#[tokio::test]
async fn containerd_gets_what_head_described() {
    let (_registry, mirror, index) = with_index();
    let accept = format!("{DOCKER_MANIFEST}, {DOCKER_LIST}, {OCI_MANIFEST}, {OCI_INDEX}, */*");
    for reference in ["1.0", &index.digest, &index.images[1].digest] {
        let url = format!("{}?ns=docker.io", mirror.manifest_url(REPO, reference));
        let head = client::head(&url, &[("accept", &accept)]).await.unwrap();
        let kind = head.header("content-type").unwrap();
        let digest = head.header("docker-content-digest").unwrap();
        let url = format!("{}?ns=docker.io", mirror.manifest_url(REPO, digest));
        let headers = [
            ("accept", &*format!("{kind}, */*")),
            ("accept-encoding", "zstd;q=1.0, gzip;q=0.8, deflate;q=0.5"),
            // With `concurrent_layer_fetch_buffer`, of everything.
            ("range", "bytes=0-"),
        ];
        let got = client::get(&url, &headers).await.unwrap();
        assert_eq!(got.header("content-type"), Some(kind));
        assert_eq!(got.header("content-encoding"), None);
        assert_eq!(digest_of(&got.body), digest);
        assert_eq!(got.header("content-length"), head.header("content-length"));
    }
}

/// containerd `resolver.go`: by digest it asks for a manifest, and then for a blob, of whatever it was given.
#[tokio::test]
async fn containerd_finds_a_blob_by_head_where_there_is_no_manifest() {
    let (registry, mirror) = start();
    let blob = Blob::cold(&registry, &mirror, 1, 1000);
    let manifest = client::head(&mirror.manifest_url(REPO, &blob.digest), &[])
        .await
        .unwrap();
    assert_eq!(manifest.status, StatusCode::NOT_FOUND);
    let head = client::head(&blob.url, &[]).await.unwrap();
    assert_eq!(head.status, StatusCode::OK);
    assert_eq!(head.header("content-length"), Some("1000"));
    assert_eq!(head.header("docker-content-digest"), Some(&*blob.digest));
}

/// watchtower (old): accepts Docker's types alone, and only wants the digest.
#[tokio::test]
async fn watchtower_is_told_the_digest_of_a_type_it_does_not_accept() {
    let (registry, mirror, index) = with_index();
    let lines = [
        ("accept", DOCKER_MANIFEST),
        ("accept", DOCKER_LIST),
        (
            "accept",
            "application/vnd.docker.distribution.manifest.v1+json",
        ),
    ];
    let url = mirror.manifest_url(REPO, "1.0");
    for _ in 0..2 {
        let head = client::head(&url, &lines).await.unwrap();
        assert_eq!(head.status, StatusCode::OK);
        assert_eq!(head.header("docker-content-digest"), Some(&*index.digest));
    }
    assert_eq!(registry.counts().requests(), 1);
}

/// renovate `datasource/docker`: compares the type for equality.
#[tokio::test]
async fn renovate_gets_a_type_without_parameters() {
    let (registry, mirror) = start();
    let image = Image::random(1, &[100]);
    let type_with_more = format!("{OCI_MANIFEST}; charset=utf-8");
    registry.put_manifest(REPO, Some("1.0"), &type_with_more, image.manifest.clone());
    let accept = [DOCKER_LIST, DOCKER_MANIFEST, OCI_MANIFEST, OCI_INDEX].join(", ");
    for method in [Method::HEAD, Method::GET] {
        let url = mirror.manifest_url(REPO, "1.0");
        let answer = client::request(method, &url, &[("accept", &accept)])
            .await
            .unwrap();
        assert_eq!(answer.header("content-type"), Some(OCI_MANIFEST));
        assert_eq!(answer.header("docker-content-digest"), Some(&*image.digest));
    }
}

/// oras-go `registry/remote/repository.go`: digest, length and type must be those of the descriptor, on blobs as well.
#[tokio::test]
async fn oras_gets_the_digest_it_asked_for() {
    let (registry, mirror, index) = with_index();
    let image = &index.images[0];
    let url = mirror.manifest_url(REPO, &image.digest);
    let manifest = client::get(&url, &[("accept", OCI_MANIFEST)])
        .await
        .unwrap();
    assert_eq!(manifest.header("content-type"), Some(OCI_MANIFEST));
    assert_eq!(
        manifest.header("docker-content-digest"),
        Some(&*image.digest)
    );
    let blob = Blob::cold(&registry, &mirror, 1, 70_000);
    for _ in 0..2 {
        let answer = client::get(&blob.url, &[]).await.unwrap();
        assert_eq!(answer.status, StatusCode::OK);
        assert_eq!(answer.header("docker-content-digest"), Some(&*blob.digest));
        assert_eq!(answer.header("content-length"), Some("70000"));
        assert_eq!(answer.header("accept-ranges"), Some("bytes"), "it can seek");
    }
}

// Row 7.

/// soci `fs/remote/resolver.go`, `fs/artifact_fetcher.go`: three seconds for the header, and `Accept-Ranges` in it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn soci_gets_headers_within_three_seconds_on_a_cold_blob() {
    let (registry, mirror) = start();
    // All of them together would take half a minute.
    registry.set_rate(200_000);
    let asks = [
        None,
        Some("bytes=0-1"),
        Some("bytes=1500000-"),
        Some("bytes=-100"),
        Some("bytes=5-6,9-9"),
    ];
    let asks = asks.into_iter().enumerate().map(|(seed, range)| {
        let blob = Blob::cold(&registry, &mirror, seed as u64, 3 * MIB / 2 + 1);
        async move {
            let range = range.map(|range| ("range", range));
            let begin = Downloading {
                abort_after: Some(1),
                ..Downloading::default()
            };
            let answer = begin.run(&blob.url, range.as_slice()).await.unwrap();
            assert!(
                answer.headers_after < Duration::from_secs(3),
                "{range:?}: {:?}",
                answer.headers_after
            );
            assert_eq!(answer.header("accept-ranges"), Some("bytes"), "{range:?}");
            let expected = if range.is_some() { 206 } else { 200 };
            assert_eq!(answer.status.as_u16(), expected, "{range:?}");
            assert!(answer.header("content-length").is_some(), "{range:?}");
        }
    });
    futures_util::future::join_all(asks).await;
}

// Rows 8 and 9.

/// stargz `fs/remote/resolver.go`: two bytes to see whether it can be read, HEAD for the size, then chunks as they are
/// needed, several at a time; none redirected.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stargz_reads_a_cold_layer_by_its_footer_first() {
    let (registry, mirror) = start();
    registry.set_rate(2_000_000);
    let blob = Blob::cold(&registry, &mirror, 1, 4 * MIB);
    let size = 4 * MIB;
    blob.assert_part(&blob.range("bytes=0-1").await, 0, 1);
    let head = client::head(&blob.url, &[]).await.unwrap();
    assert_eq!(head.status, StatusCode::OK);
    assert_eq!(head.header("content-length"), Some(&*size.to_string()));
    let footer = size - 51;
    let answer = blob.range(&format!("bytes={footer}-{}", size - 1)).await;
    blob.assert_part(&answer, footer, size - 1);
    let chunks = [
        (3_000_000, 3_049_999),
        (50_000, 99_999),
        (2_000_000, 2_049_999),
    ];
    let list = chunks
        .map(|(first, last)| format!("{first}-{last}"))
        .join(",");
    let headers = [
        ("range", &*format!("bytes={list}")),
        ("accept-encoding", "identity"),
    ];
    let answer = client::get(&blob.url, &headers).await.unwrap();
    blob.assert_parts(&answer, &chunks);
    // It looks again after a minute of silence.
    blob.assert_part(&blob.range("bytes=0-1").await, 0, 1);
}

/// overlaybd `registryfs_v2.cpp`: one byte for the size, then all of it to see whether it is redirected, and hangs up.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn overlaybd_hangs_up_on_the_whole_and_reads_parts() {
    let (registry, mirror) = start();
    registry.set_rate(4_000_000);
    let blob = Blob::cold(&registry, &mirror, 1, 4 * MIB);
    blob.assert_part(&blob.range("bytes=0-0").await, 0, 0);
    let probe = Downloading {
        abort_after: Some(1),
        ..Downloading::default()
    };
    let probe = probe.run(&blob.url, &[]).await.unwrap();
    assert_eq!(probe.status, StatusCode::OK);
    for (first, last) in [(4_000_000, 4_000_511), (0, 511), (1_000_000, 1_262_143)] {
        let answer = blob.range(&format!("bytes={first}-{last}")).await;
        blob.assert_part(&answer, first, last);
    }
}

/// containerd `core/remotes/docker/fetcher.go`, parallel: `bytes=0-`, then open ends from everywhere, each left after its
/// chunk, and no look at the status. One 200 among them makes a broken layer.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn containerd_is_never_given_a_200_to_a_range() {
    const CHUNK: u64 = MIB;
    let (registry, mirror) = start();
    registry.set_rate(4_000_000);
    let cold = Blob::cold(&registry, &mirror, 1, 6 * MIB);
    for round in ["cold", "again"] {
        let chunks = (0..6).map(|number| {
            let (blob, offset) = (&cold, number * CHUNK);
            async move {
                let range = format!("bytes={offset}-");
                let chunk = Downloading {
                    abort_after: Some(CHUNK),
                    ..Downloading::default()
                };
                let answer = chunk.run(&blob.url, &[("range", &range)]).await.unwrap();
                assert_eq!(
                    answer.status,
                    StatusCode::PARTIAL_CONTENT,
                    "{round} {range}"
                );
                let told = content_range(answer.header("content-range").unwrap());
                assert_eq!(told, (offset, 6 * MIB - 1, 6 * MIB), "{round}");
                assert_eq!(answer.error, None, "{round} {range}");
                assert!(answer.bytes >= CHUNK, "{round} {range}: {}", answer.bytes);
                let expected = blob.bytes(offset, offset + answer.bytes - 1);
                assert_eq!(answer.digest, digest_of(&expected), "{round} {range}");
            }
        });
        futures_util::future::join_all(chunks).await;
    }
    client::download(&cold.url, &[])
        .await
        .unwrap()
        .assert_is(&cold.digest);
}

/// regclient `scheme/reg/blob.go`, `internal/reghttp`: `bytes=<current>-<Content-Length>`, whose last byte does not exist.
#[tokio::test]
async fn regclient_may_ask_one_byte_past_the_end() {
    let (registry, mirror) = start();
    let cold = Blob::cold(&registry, &mirror, 1, 100_000);
    blob_to_the_end(&cold, "bytes=60000-100000").await;
    let stored = Blob::stored(&registry, &mirror, 2, 100_000).await;
    blob_to_the_end(&stored, "bytes=60000-100000").await;
}

/// moby `transport/http_reader.go` wants the last byte that there is; containers/image `body_reader.go` wants it as well,
/// and one `Content-Range` only.
#[tokio::test]
async fn dockerd_resumes_to_the_last_byte() {
    let (registry, mirror) = start();
    let cold = Blob::cold(&registry, &mirror, 1, 100_000);
    blob_to_the_end(&cold, "bytes=60000-").await;
    let stored = Blob::stored(&registry, &mirror, 2, 100_000).await;
    blob_to_the_end(&stored, "bytes=60000-").await;
}

async fn blob_to_the_end(blob: &Blob, range: &str) {
    let answer = blob.range(range).await;
    blob.assert_part(&answer, 60_000, 99_999);
    assert_eq!(answer.headers.get_all("content-range").iter().count(), 1);
}

/// nydus `storage/src/backend/registry.rs` and overlaybd take whatever is below 400 for the bytes they asked for.
#[tokio::test]
async fn nydus_gets_its_bytes_or_an_error() {
    let (registry, mirror) = start();
    for (seed, fault) in [
        Fault::status(500),
        Fault::status(404),
        Fault::Reset,
        Fault::Html(200),
        Fault::status(403),
    ]
    .into_iter()
    .enumerate()
    {
        let blob = Blob::cold(&registry, &mirror, seed as u64, 100_000);
        let id = registry.fault(On::blob().containing(&blob.digest).forever(), fault.clone());
        match client::get(&blob.url, &[("range", "bytes=500-999")]).await {
            Ok(answer) => assert!(
                answer.status.as_u16() >= 400,
                "{fault:?}: {}",
                answer.status
            ),
            Err(broken) => assert!(!broken.is_empty()),
        }
        assert!(registry.struck(id) > 0, "{fault:?}");
    }
    // It cannot do without a length.
    let blob = Blob::cold(&registry, &mirror, 9, 100_000);
    let head = client::head(&blob.url, &[]).await.unwrap();
    assert_eq!(head.header("content-length"), Some("100000"));
}

// Row 10.

/// containers-storage `pkg/chunked/storage_linux.go`: parts are told apart by nothing but their order and number.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn podman_gets_one_part_per_range_in_order() {
    let (registry, mirror) = start();
    let stored = Blob::stored(&registry, &mirror, 1, 200_000).await;
    let cold = Blob::cold(&registry, &mirror, 2, 200_000);
    let slow = Blob::cold(&registry, &mirror, 3, 200_000);
    let once = On::blob().get().containing(&slow.digest);
    registry.fault(
        once,
        Fault::Slow {
            bytes_per_sec: 150_000,
        },
    );
    for blob in [&stored, &cold, &slow] {
        // Neighbours, a gap of one byte, backwards, the same again, overlapping: none of it is put together.
        let ranges = [
            (0, 9),
            (10, 19),
            (21, 29),
            (150_000, 165_999),
            (65_530, 65_550),
            (65_530, 65_550),
            (65_540, 65_560),
            (0, 0),
            (199_999, 199_999),
        ];
        let list = ranges
            .map(|(first, last)| format!("{first}-{last}"))
            .join(",");
        blob.assert_parts(&blob.range(&format!("bytes={list}")).await, &ranges);
        // Table of contents and tar-split, as the first request has it.
        blob.assert_parts(
            &blob.range("bytes=190000-195000,195001-199990").await,
            &[(190_000, 195_000), (195_001, 199_990)],
        );
    }
}

#[tokio::test]
async fn podman_leaves_the_last_range_open() {
    let (registry, mirror) = start();
    let stored = Blob::stored(&registry, &mirror, 1, 200_000).await;
    let cold = Blob::cold(&registry, &mirror, 2, 200_000);
    for blob in [&cold, &stored] {
        let answer = blob.range("bytes=5-9,100000-100009,150000-").await;
        blob.assert_parts(&answer, &[(5, 9), (100_000, 100_009), (150_000, 199_999)]);
    }
}

/// containers-storage: up to 1024 ranges in one header of about 20 KiB.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn podman_may_send_a_thousand_ranges_in_one_header() {
    let (registry, mirror) = start();
    let ranges: Vec<(u64, u64)> = (0..1024_u64)
        .map(|number| {
            (
                10_000_000 + number * 9_000,
                10_000_000 + number * 9_000 + number,
            )
        })
        .collect();
    let list: Vec<_> = ranges
        .iter()
        .map(|(first, last)| format!("{first}-{last}"))
        .collect();
    let header = format!("bytes={}", list.join(", "));
    assert!(header.len() > 19_000, "{}", header.len());
    let stored = Blob::stored(&registry, &mirror, 1, 20 * MIB).await;
    stored.assert_parts(&stored.range(&header).await, &ranges);
    let cold = Blob::cold(&registry, &mirror, 2, 20 * MIB);
    cold.assert_parts(&cold.range(&header).await, &ranges);
    // It halves its list upon a 400, and gives up upon anything else.
    let list = format!("{header}, 19990000-19990001");
    for blob in [&stored, &cold] {
        assert_refused(&blob.range(&list).await);
    }
}

#[tokio::test]
async fn podman_is_told_400_for_what_is_not_served() {
    let (registry, mirror) = start();
    let stored = Blob::stored(&registry, &mirror, 1, 100_000).await;
    let cold = Blob::cold(&registry, &mirror, 2, 100_000);
    let again = vec!["0-99999"; 1000].join(",");
    for blob in [&stored, &cold] {
        assert_refused(&blob.range(&format!("bytes={again}")).await);
        assert_refused(&blob.range("bytes=0-,1-,2-").await);
        // Twice the blob is no attack yet.
        let answer = blob.range("bytes=0-,0-").await;
        blob.assert_parts(&answer, &[(0, 99_999), (0, 99_999)]);
    }
}

/// What has no room in the store is passed through, one range at a time.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn podman_is_told_400_where_nothing_can_be_stored() {
    let registry = FakeRegistry::start().await;
    let mirror = Mirror::start(MirrorConfig::for_upstream(&registry).max_size("4MiB"));
    let blob = Blob::cold(&registry, &mirror, 1, 9 * MIB);
    assert_refused(&blob.range("bytes=0-1,5-6").await);
    blob.assert_part(&blob.range("bytes=5-6").await, 5, 6);
}

#[track_caller]
fn assert_refused(answer: &Response) {
    assert_eq!(answer.status, StatusCode::BAD_REQUEST);
    assert_eq!(answer.header("content-type"), Some("application/json"));
    assert!(answer.json()["errors"][0]["code"].is_string());
}

#[tokio::test]
async fn podman_gets_its_parts_only_of_the_blob_it_means() {
    let (registry, mirror) = start();
    let stored = Blob::stored(&registry, &mirror, 1, 10_000).await;
    let cold = Blob::cold(&registry, &mirror, 2, 10_000);
    for blob in [&stored, &cold] {
        let range = ("range", "bytes=1-2,5-6");
        let etag = format!("\"{}\"", blob.digest);
        let answer = client::get(&blob.url, &[range, ("if-range", &etag)])
            .await
            .unwrap();
        blob.assert_parts(&answer, &[(1, 2), (5, 6)]);
        let answer = client::get(&blob.url, &[range, ("if-range", "\"other\"")])
            .await
            .unwrap();
        assert_eq!(answer.status, StatusCode::OK);
        assert_eq!(digest_of(&answer.body), blob.digest);
    }
}

// Row 14.

/// nydus follows no redirect to a relative place, stargz none at all on data, go-containerregistry none to an address.
#[tokio::test]
async fn nydus_is_never_redirected() {
    let registry = FakeRegistry::docker_hub().start().await;
    let mirror = Mirror::start(MirrorConfig::for_upstream(&registry));
    let blob = Blob::cold(&registry, &mirror, 1, 100_000);
    blob.assert_part(&blob.range("bytes=99000-99999").await, 99_000, 99_999);
    for method in [Method::HEAD, Method::GET] {
        let answer = client::request(method, &blob.url, &[]).await.unwrap();
        assert_eq!(answer.status, StatusCode::OK);
        assert_eq!(answer.header("location"), None);
    }
    assert!(
        registry.counts().blob_host_gets > 0,
        "upstream did redirect"
    );
}

// Row 17.

/// containers/image: six blobs at a time, over connections that are kept; 200 and nothing else to a GET without a range.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn podman_keeps_its_connections_for_all_it_asks() {
    let (registry, mirror) = start();
    let client = Client::new();
    let version = ("docker-distribution-api-version", "registry/2.0");
    let ping = client
        .get(&format!("{}/v2/", mirror.url()), &[version])
        .await
        .unwrap();
    assert_eq!(ping.status, StatusCode::OK);
    for _ in 0..2 {
        let blobs = (0..6).map(|seed| {
            let blob = Blob::cold(&registry, &mirror, seed, MIB);
            let client = client.clone();
            async move {
                let headers = [version, ("accept-encoding", "gzip")];
                let answer = client.get(&blob.url, &headers).await.unwrap();
                assert_eq!(answer.status, StatusCode::OK);
                assert_eq!(digest_of(&answer.body), blob.digest);
            }
        });
        futures_util::future::join_all(blobs).await;
    }
    assert_eq!(registry.counts().blob_gets, 6);
    let open = mirror.metric("pierglass_connections", &[]).await;
    assert!(open.is_none_or(|open| open <= 7.0), "{open:?} connections");
}

/// trivy: keep-alives are off.
#[tokio::test]
async fn trivy_opens_a_connection_for_each_request() {
    let (registry, mirror) = start();
    let blob = Blob::cold(&registry, &mirror, 1, 1000);
    for _ in 0..2 {
        let path = blob.url.strip_prefix(&mirror.url()).unwrap();
        let mut connection = Raw::connect(mirror.authority()).await;
        connection
            .send(format!(
                "GET {path} HTTP/1.1\r\nHost: m\r\nConnection: close\r\n\r\n"
            ))
            .await;
        let (answer, ending) = connection.read(Duration::from_secs(10)).await;
        assert_eq!(ending, client::Ending::Closed);
        assert!(answer.starts_with(b"HTTP/1.1 200 OK\r\n"));
        assert!(answer.ends_with(&blob.bytes(0, 999)));
    }
}
