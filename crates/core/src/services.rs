//! The services of a route table: in the order of their names, and found by name in as many steps among
//! a hundred thousand as among ten.
//!
//! Made whenever a table is published, asked for every connection, never changed.

use std::fmt;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::Arc;

use serde::{Serialize, Serializer};

use crate::mesh::ServiceRoute;
use crate::name::ServiceName;

/// Rows by name. Each is shared between tables that did not change it.
///
/// Names come from peers. Whoever looks for names whose hashes collide makes a search of a logarithm of
/// them, no longer one.
#[derive(Clone, Default)]
pub struct Services {
    /// In the order of their names.
    rows: Vec<Arc<ServiceRoute>>,
    /// The same rows in the order of their names' hashes.
    hashes: Vec<(u64, Arc<ServiceRoute>)>,
    /// Where in `hashes` those with the same leading bits begin; one more than there are of these.
    starts: Vec<u32>,
}

fn hash(name: &ServiceName) -> u64 {
    // Made with fixed keys: the same in every run.
    let mut hasher = DefaultHasher::new();
    name.hash(&mut hasher);
    hasher.finish()
}

impl Services {
    /// The row of this service.
    #[must_use]
    pub fn get(&self, name: &ServiceName) -> Option<&Arc<ServiceRoute>> {
        let hash = hash(name);
        let bucket = self.bucket(hash);
        let (from, to) = (self.starts.get(bucket)?, self.starts.get(bucket + 1)?);
        let near = self.hashes.get(*from as usize..*to as usize)?;
        let same = &near[near.partition_point(|(known, _)| *known < hash)..];
        let same = same.iter().take_while(|(known, _)| *known == hash);
        same.map(|(_, row)| row).find(|row| row.service == *name)
    }

    /// Whether the service is known.
    #[must_use]
    pub fn contains_key(&self, name: &ServiceName) -> bool {
        self.get(name).is_some()
    }

    /// All rows in the order of their names.
    pub fn values(&self) -> impl ExactSizeIterator<Item = &Arc<ServiceRoute>> {
        self.rows.iter()
    }

    /// Names and rows in the order of the names.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&ServiceName, &Arc<ServiceRoute>)> {
        self.rows.iter().map(|row| (&row.service, row))
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// The leading bits of a hash, of which there are as many as services, rounded up to a power of two.
    fn bucket(&self, hash: u64) -> usize {
        let bits = self.rows.len().next_power_of_two().trailing_zeros();
        // Without the bits of a single bucket the shift would be too long.
        hash.checked_shr(u64::BITS - bits).and_then(|leading| usize::try_from(leading).ok()).unwrap_or(0)
    }
}

impl std::ops::Index<&ServiceName> for Services {
    type Output = Arc<ServiceRoute>;

    /// # Panics
    /// When the service is not known.
    fn index(&self, name: &ServiceName) -> &Self::Output {
        self.get(name).unwrap_or_else(|| panic!("no service {name}"))
    }
}

impl FromIterator<Arc<ServiceRoute>> for Services {
    /// Of several rows with one name the last one counts.
    fn from_iter<I: IntoIterator<Item = Arc<ServiceRoute>>>(rows: I) -> Self {
        let mut rows: Vec<_> = rows.into_iter().collect();
        rows.sort_by(|a, b| a.service.cmp(&b.service));
        rows.dedup_by(|later, kept| {
            let same = later.service == kept.service;
            if same {
                std::mem::swap(later, kept);
            }
            same
        });
        let mut hashes: Vec<_> = rows.iter().map(|row| (hash(&row.service), row.clone())).collect();
        hashes.sort_by_key(|(hash, _)| *hash);
        let mut made = Self { rows, hashes, starts: Vec::new() };
        let mut starts = Vec::with_capacity(made.rows.len().next_power_of_two() + 1);
        for (place, (hash, _)) in (0_u32..).zip(&made.hashes) {
            starts.resize(starts.len().max(made.bucket(*hash) + 1), place);
        }
        let end = u32::try_from(made.hashes.len()).unwrap_or(u32::MAX);
        starts.resize(made.rows.len().next_power_of_two() + 1, end);
        made.starts = starts;
        made
    }
}

impl PartialEq for Services {
    fn eq(&self, other: &Self) -> bool {
        self.rows == other.rows
    }
}

impl Eq for Services {}

impl fmt::Debug for Services {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter()).finish()
    }
}

impl Serialize for Services {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.iter())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;
    use crate::catalog::{Affinity, ServiceType};

    fn name(number: usize) -> ServiceName {
        ServiceName::new(&format!("ns-{}", number % 7), &format!("svc-{number}")).unwrap()
    }

    fn row(number: usize, kind: ServiceType) -> Arc<ServiceRoute> {
        Arc::new(ServiceRoute {
            service: name(number),
            kind,
            ports: vec![],
            affinity: Affinity::None,
            vips: BTreeMap::new(),
            clusters: vec![],
            hosts: vec![],
            local: None,
        })
    }

    proptest! {
        /// It knows what a map knows, in the same order.
        #[test]
        fn it_is_a_map(given in prop::collection::vec((0_usize..300, any::<bool>()), 0..400)) {
            let kind = |headless| if headless { ServiceType::Headless } else { ServiceType::ClusterSetIP };
            let rows: Vec<_> = given.iter().map(|(number, headless)| row(*number, kind(*headless))).collect();
            let map: BTreeMap<_, _> = rows.iter().map(|row| (row.service.clone(), row.clone())).collect();
            let services: Services = rows.into_iter().collect();
            prop_assert_eq!(services.len(), map.len());
            prop_assert!(services.iter().eq(&map));
            for number in 0..310 {
                prop_assert_eq!(services.get(&name(number)), map.get(&name(number)));
            }
        }
    }

    #[test]
    fn none_of_none_is_found() {
        assert!(!Services::default().contains_key(&name(1)));
        assert!(!Services::from_iter([]).contains_key(&name(1)));
    }
}
