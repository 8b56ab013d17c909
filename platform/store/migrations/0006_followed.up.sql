-- Records that others of the region follow: the transaction that wrote them last. Null for all others.
alter table records add column followed_at xid8;
create index records_followed on records (followed_at) where followed_at is not null;
