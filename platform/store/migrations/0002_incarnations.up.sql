-- False while a replica that follows one that has forgotten fetches from the other regions what they have. Until then it serves nobody.
alter table replica add column synced boolean not null default true;
