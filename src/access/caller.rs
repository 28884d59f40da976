//! Who asks: the address, and the share of what this client may take at a time.

use std::net::IpAddr;
use std::sync::Arc;

use super::permits::Share;

/// Who asks: where the connection comes from, and what this client may still take.
#[derive(Clone)]
pub(crate) struct Caller {
    address: IpAddr,
    share: Arc<Share>,
}

impl Caller {
    pub(crate) fn new(address: IpAddr, share: Arc<Share>) -> Self {
        Self { address, share }
    }

    pub(crate) fn address(&self) -> IpAddr {
        self.address
    }

    pub(crate) fn share(&self) -> &Arc<Share> {
        &self.share
    }
}
