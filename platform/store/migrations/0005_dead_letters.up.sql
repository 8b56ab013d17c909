-- Messages of other regions' logs that cannot be applied: body is the message's value as it was read. A letter is open until settled is set; it stays for a while
-- after that, so that the same message, read again, is not taken for a new one. A letter whose user is not known is kept with slot 0.
create table dead_letters (
    name       text primary key collate "C",
    slot       smallint not null,
    user_id    uuid,
    region     text not null,
    replica    bigint not null,
    n          bigint not null,
    topic      text not null,
    partition  integer not null,
    place      bigint not null,
    error      text not null,
    came_at    timestamptz not null default clock_timestamp(),
    settled    smallint not null default 0,
    settled_at timestamptz,
    body       bytea not null
);
create index dead_letters_open on dead_letters (name) where settled = 0;
