//! Charliecloud builds containers on clusters, and must never need another registry than the mirror for it.

use crate::both_ways::{BothWays, REPO, Tagged};
use crate::containers::file;

/// It speaks HTTPS alone.
#[tokio::test]
async fn ch_image_pulls_images_and_lists() {
    let both = BothWays::https();
    Tagged::docker(&both.registry).await;
    Tagged::oci(&both.registry).await;
    let tags = ["single", "list", "oci", "index"];
    let expected = tags.map(|tag| format!("{tag} amd64"));
    both.assert_same(&expected, |both, url| {
        let host = url.replace("https://", "");
        let storage = both.home().join("images");
        let ch_image = |arguments: &[&str]| {
            both.run("ch-image", "charliecloud", |command| {
                command.arg("--storage").arg(&storage).args(arguments);
            })
        };
        let mut lines = String::new();
        for tag in tags {
            let name = format!("{host}/{REPO}:{tag}");
            ch_image(&["--no-cache", "--arch", "amd64", "pull", &name]);
            // Its own spelling of a name as a directory's.
            let directory = storage
                .join("img")
                .join(name.replace('/', "%").replace(':', "+"));
            let mark = String::from_utf8(file(&directory, "etc/mark")).unwrap();
            assert!(file(&directory, "bin/busybox") == file("/bin".as_ref(), "busybox"));
            lines.push_str(&format!("{tag} {mark}\n"));
        }
        // What it has downloaded is not downloaded again.
        std::fs::remove_dir_all(&storage).unwrap();
        lines
    });
}
