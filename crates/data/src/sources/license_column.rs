//! The license of each record of a table: one small number per record, and each name once.

use std::collections::BTreeMap;

use crate::licenses::{Licenses, MAX_NAMES, NOT_STATED, OTHERS, tidy};
use crate::record::Metadata;

/// Licenses of records by position; empty if no record has one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct LicenseColumn {
    /// Names, each with its number in `records`, from 1.
    names: BTreeMap<String, u16>,
    /// 0 for a record without a license.
    records: Vec<u16>,
}

/// The license in a record's metadata: its name, or its address.
pub(crate) fn license_of(metadata: &Metadata) -> Option<&str> {
    let stated = [&metadata.license, &metadata.license_url];
    let stated = stated.into_iter().flatten();
    stated.map(|text| text.trim()).find(|text| !text.is_empty())
}

impl LicenseColumn {
    /// The stored form of the column: names in the order of their numbers, and the numbers of the records.
    ///
    /// `None` where a number has no name.
    pub(crate) fn from_parts(names: Vec<String>, records: Vec<u16>) -> Option<Self> {
        let most = u16::try_from(names.len()).ok()?;
        let names = names.into_iter().zip(1..=most).collect::<BTreeMap<String, u16>>();
        let sound = names.len() == usize::from(most) && records.iter().all(|number| *number <= most);
        sound.then_some(Self { names, records })
    }

    /// See [`from_parts`](Self::from_parts).
    pub(crate) fn names(&self) -> Vec<&str> {
        let mut names = self.names.iter().collect::<Vec<_>>();
        names.sort_by_key(|(_, number)| **number);
        names.into_iter().map(|(name, _)| name.as_str()).collect()
    }

    /// See [`from_parts`](Self::from_parts).
    pub(crate) fn records(&self) -> &[u16] {
        &self.records
    }

    /// Adds the record at `position`, which must be the next one.
    pub(crate) fn push(&mut self, position: usize, license: Option<&str>) {
        let number = license.map_or(0, |license| self.number(license));
        if number == 0 && self.records.is_empty() {
            return;
        }
        self.records.resize(position, 0);
        self.records.push(number);
    }

    fn number(&mut self, license: &str) -> u16 {
        if let Some(number) = self.names.get(license) {
            return *number;
        }
        let mut name = tidy(license);
        if self.names.len() >= MAX_NAMES && !self.names.contains_key(&name) {
            OTHERS.clone_into(&mut name);
        }
        let next = self.names.len() as u16 + 1;
        *self.names.entry(name).or_insert(next)
    }

    /// The licenses of the first `records` records.
    pub(crate) fn of_first(&self, records: usize) -> Vec<Option<&str>> {
        let names = self.names();
        let number = |row: usize| usize::from(self.records.get(row).copied().unwrap_or(0));
        (0..records)
            .map(|row| number(row).checked_sub(1).map(|at| names[at]))
            .collect()
    }

    /// The records at these positions, in this order.
    pub(crate) fn picked(&self, positions: &[u32]) -> Self {
        let number = |position: &u32| self.records.get(*position as usize).copied().unwrap_or(0);
        Self {
            names: self.names.clone(),
            records: positions.iter().map(number).collect(),
        }
    }

    /// The number of records per license, among `records` records.
    pub(crate) fn counted(&self, records: usize) -> Licenses {
        let names = self.names();
        let mut counts = vec![0u64; names.len() + 1];
        counts[0] = records.saturating_sub(self.records.len()) as u64;
        for number in &self.records {
            counts[usize::from(*number)] += 1;
        }
        let mut licenses = Licenses::default();
        let names = std::iter::once(NOT_STATED).chain(names);
        for (name, count) in names.zip(counts).filter(|(_, count)| *count > 0) {
            licenses.add(name, count);
        }
        licenses
    }

    /// Frees unused capacity.
    pub(crate) fn compact(&mut self) {
        self.records.shrink_to_fit();
    }

    /// Heap memory, bytes.
    pub(crate) fn heap_bytes(&self) -> usize {
        let names = self
            .names
            .keys()
            .map(|name| name.capacity() + size_of::<(String, u16)>());
        self.records.capacity() * size_of::<u16>() + names.sum::<usize>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_counted_whole_joined_and_picked() {
        let mut column = LicenseColumn::default();
        let licenses = [
            None,
            None,
            Some("MIT"),
            None,
            Some("CC0"),
            Some("MIT"),
            Some("MIT "),
        ];
        for (position, license) in licenses.into_iter().enumerate() {
            column.push(position, license);
        }
        assert_eq!(column.counted(8).to_string(), "not stated: 4; MIT: 3; CC0: 1");
        assert_eq!(column.names(), ["MIT", "CC0"]);
        let names = column.names().into_iter().map(str::to_owned).collect();
        let again = LicenseColumn::from_parts(names, column.records().to_vec());
        assert_eq!(again.as_ref(), Some(&column));
        assert_eq!(LicenseColumn::from_parts(vec![], vec![1]), None);

        assert_eq!(
            column.of_first(8)[3..],
            [None, Some("CC0"), Some("MIT"), Some("MIT"), None]
        );
        let picked = column.picked(&[5, 7, 0, 4]);
        assert_eq!(picked.counted(4).to_string(), "not stated: 2; CC0: 1; MIT: 1");
    }

    #[test]
    fn a_name_comes_before_an_address() {
        let metadata = |name: Option<&str>, url: Option<&str>| Metadata {
            license: name.map(str::to_owned),
            license_url: url.map(str::to_owned),
            ..Metadata::default()
        };
        assert_eq!(license_of(&metadata(Some("MIT"), Some("u"))), Some("MIT"));
        assert_eq!(license_of(&metadata(Some(" "), Some("u"))), Some("u"));
        assert_eq!(license_of(&metadata(None, None)), None);
    }
}
