//! `docker search HOST/term` must find through the mirror what Docker Hub finds, and ask nobody else.

use crate::dockerd::Dockerd;
use crate::support::{FakeRegistry, Mirror, MirrorConfig};

#[tokio::test]
async fn docker_search_finds_docker_hubs_images_through_the_mirror() {
    let hub = FakeRegistry::docker_hub().start().await;
    hub.set_search(&["nginx", "acme/nginx-exporter", "redis"]);
    let mirror = Mirror::start(MirrorConfig::for_upstream(&hub));
    let docker = Dockerd::start(&[mirror.url()]);
    let term = format!("{}/nginx", mirror.authority());
    let found = docker.docker(&["search", "--format", "{{.Name}}", &term]);
    let mut names: Vec<_> = found.lines().collect();
    names.sort_unstable();
    assert_eq!(names.len(), 2, "{found}");
    assert!(names[0].ends_with("acme/nginx-exporter") && names[1].ends_with("nginx"));
    let asked = hub.requests();
    assert_eq!(asked.len(), 1, "{asked:?}");
    assert!(asked[0].target.starts_with("/v1/search?q=nginx"));
    assert_eq!(asked[0].header("authorization"), None);
    assert_eq!(docker.escapes(), <[String; 0]>::default());
}
