//! What lies in the system's socket buffers.

use anyhow::{Context, Result};

/// Bytes between a provider and all who have connected to it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Buffers {
    /// Sent to it, and not yet with it.
    pub(crate) towards: u64,
    /// With it, and unread.
    pub(crate) arrived: u64,
    /// Sent by it, and not yet with the others.
    pub(crate) back: u64,
    /// With the others, and unread.
    pub(crate) returned: u64,
}

impl Buffers {
    /// Of the provider that listens on the port.
    pub(crate) fn of(port: u16) -> Result<Self> {
        let table = std::fs::read_to_string("/proc/net/tcp").context("the table of TCP sockets")?;
        Ok(Self::in_table(&table, port))
    }

    fn in_table(table: &str, port: u16) -> Self {
        let mut sum = Self::default();
        for line in table.lines() {
            let Some((ours, theirs, unsent, unread)) = columns(line) else { continue };
            if ours == port {
                sum.back += unsent;
                sum.arrived += unread;
            } else if theirs == port {
                sum.towards += unsent;
                sum.returned += unread;
            }
        }
        sum
    }
}

impl Buffers {
    /// The same, as those see it who are connected to it.
    pub(crate) const fn seen_from_there(self) -> Self {
        Self { towards: self.back, arrived: self.returned, back: self.towards, returned: self.arrived }
    }
}

/// The port from which a process has connected to that one.
pub(crate) fn port_of(process: u32, to: u16) -> Result<u16> {
    let mut sockets = Vec::new();
    for open in std::fs::read_dir(format!("/proc/{process}/fd"))? {
        // One that is closed meanwhile is none.
        let Ok(target) = std::fs::read_link(open?.path()) else { continue };
        let inode = target.to_str().and_then(|name| name.strip_prefix("socket:[")?.strip_suffix(']'));
        sockets.extend(inode.map(str::to_owned));
    }
    let table = std::fs::read_to_string("/proc/net/tcp").context("the table of TCP sockets")?;
    let is_its =
        |line: &&str| line.split_whitespace().nth(INODE).is_some_and(|inode| sockets.iter().any(|own| own == inode));
    let ports = table.lines().filter(is_its).filter_map(columns);
    ports.filter(|(_, theirs, ..)| *theirs == to).map(|(ours, ..)| ours).next().context("it is not connected")
}

/// Both ports of an open connection, and what its two buffers hold.
fn columns(line: &str) -> Option<(u16, u16, u64, u64)> {
    let mut columns = line.split_whitespace().skip(1);
    let (ours, theirs, state, buffers) = (columns.next()?, columns.next()?, columns.next()?, columns.next()?);
    let port = |address: &str| u16::from_str_radix(address.split_once(':')?.1, 16).ok();
    let (unsent, unread) = buffers.split_once(':')?;
    let bytes = |text| u64::from_str_radix(text, 16).ok();
    (state == ESTABLISHED).then_some((port(ours)?, port(theirs)?, bytes(unsent)?, bytes(unread)?))
}

const ESTABLISHED: &str = "01";
/// Its column.
const INODE: usize = 9;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_of_sockets_is_read() {
        let table = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid\n\
             0: 0100007F:1F90 00000000:0000 0A 00000000:00000007 00:00000000 00000000     0\n\
             1: 0100007F:1F90 0100007F:C350 01 00000010:00000002 00:00000000 00000000     0\n\
             2: 0100007F:C350 0100007F:1F90 01 00000003:000000FF 00:00000000 00000000     0\n\
             3: 0100007F:C351 0100007F:1F91 01 00000003:000000FF 00:00000000 00000000     0\n";
        assert_eq!(Buffers::in_table(table, 8080), Buffers { towards: 3, arrived: 2, back: 16, returned: 255 });
        assert_eq!(Buffers::in_table(table, 1), Buffers::default());
    }
}
