-- Incarnations that are over. Their events are not applied here any more: what builds on nothing that is missing is parked as well. Closed: no region will ever have
-- more of the incarnation than is here.
create table ended (
    replica bigint primary key,
    closed  boolean not null
);
