//! Who is asked, one after the other: the endpoints in their order, and the registry itself at the end.

use std::time::{Duration, Instant};

use super::client::Client;

/// How long an endpoint whose body broke off is not asked for blobs.
const AVOIDED: Duration = Duration::from_secs(15);

/// Those to ask, each with its share of the time there is.
pub(crate) struct Turns<'a> {
    clients: Vec<&'a Client>,
    until: Instant,
}

/// One to ask.
pub(crate) struct Turn<'a> {
    pub(crate) client: &'a Client,
    pub(crate) until: Instant,
    /// Its word is final.
    pub(crate) last: bool,
}

impl<'a> Turns<'a> {
    /// `home` has the last word; `endpoints` that broke off lately are left out of questions for bodies.
    pub(crate) fn new(
        endpoints: &'a [Client],
        home: &'a Client,
        time: Duration,
        for_bodies: bool,
    ) -> Self {
        let sound = |client: &&Client| !for_bodies || !client.broke_within(AVOIDED);
        let mut clients = vec![home];
        clients.extend(endpoints.iter().filter(sound).rev());
        Self {
            clients,
            until: Instant::now() + time,
        }
    }
}

impl<'a> Iterator for Turns<'a> {
    type Item = Turn<'a>;

    fn next(&mut self) -> Option<Turn<'a>> {
        let left = u32::try_from(self.clients.len()).unwrap_or(u32::MAX);
        let client = self.clients.pop()?;
        let now = Instant::now();
        // One that hangs must leave time for the others.
        let share = self.until.saturating_duration_since(now) / left.max(1);
        Some(Turn {
            client,
            until: now + share,
            last: left <= 1,
        })
    }
}
