-- A database as server 0.1.0 left it: written by that version, dumped with sqlite3's .dump. Never changed.
BEGIN TRANSACTION;
CREATE TABLE commands (
	id VARCHAR(36) NOT NULL, 
	node_id VARCHAR(128) NOT NULL, 
	kind VARCHAR(64) NOT NULL, 
	reason TEXT NOT NULL, 
	actor VARCHAR(256) NOT NULL, 
	target_incarnation VARCHAR(160), 
	parameters JSON NOT NULL, 
	time_to_live_s DOUBLE NOT NULL, 
	idempotency_key VARCHAR(256), 
	fingerprint VARCHAR(64) NOT NULL, 
	state VARCHAR(32) NOT NULL, 
	detail TEXT NOT NULL, 
	incarnation_after VARCHAR(160), 
	created_wall_at DOUBLE NOT NULL, 
	expires_wall_at DOUBLE NOT NULL, 
	sent_wall_at DOUBLE, 
	accepted_wall_at DOUBLE, 
	finished_wall_at DOUBLE, 
	version_id INTEGER NOT NULL, 
	PRIMARY KEY (id), 
	FOREIGN KEY(node_id) REFERENCES nodes (id), 
	UNIQUE (idempotency_key)
);
INSERT INTO "commands" VALUES('0199-1','node-a','restart','because','alice','01900000-0000-7000-8000-000000000001/1','{"grace_s": 3}',60.0,'key-1','ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff','done','restarted','01900000-0000-7000-8000-000000000001/2',1790000003.0,1790000063.0,1790000004.0,NULL,1790000005.0,3);
INSERT INTO "commands" VALUES('0199-2','node-b','drain','because','alice','01900000-0000-7000-8000-000000000001/1','{"grace_s": 3}',60.0,NULL,'ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff','queued','',NULL,1790000003.0,1790000063.0,NULL,NULL,NULL,1);
CREATE TABLE events (
	seq INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT, 
	wall_at DOUBLE NOT NULL, 
	type VARCHAR(64) NOT NULL, 
	node_id VARCHAR(128), 
	detail JSON NOT NULL
);
INSERT INTO "events" VALUES(1,1790000000.25,'node.created','node-a','{"name": "node-a"}');
INSERT INTO "events" VALUES(2,1790000000.25,'node.created','node-b','{"name": "node-b"}');
INSERT INTO "events" VALUES(3,1790000000.25,'node.created','node-c','{"name": "node-c"}');
INSERT INTO "events" VALUES(4,1790000001.5,'node.registered','node-a','{"incarnation": "01900000-0000-7000-8000-000000000001/1", "address": "10.0.0.1", "port": 8000}');
INSERT INTO "events" VALUES(5,1790000002.0,'node.state','node-a','{"before": "PENDING", "after": "READY", "reason": "Why", "message": "it''s so (since 2026-09-21T14:13:20Z)"}');
INSERT INTO "events" VALUES(6,1790000002.0,'node.state','node-b','{"before": "PENDING", "after": "MAINTENANCE", "reason": "Why", "message": "it''s so (since 2026-09-21T14:13:20Z)"}');
INSERT INTO "events" VALUES(7,1790000002.0,'node.state','node-c','{"before": "PENDING", "after": "UNREACHABLE", "reason": "Why", "message": "it''s so (since 2026-09-21T14:13:20Z)"}');
INSERT INTO "events" VALUES(8,1790000003.0,'command.queued','node-a','{"command": "0199-1", "kind": "restart", "actor": "alice", "reason": "because"}');
INSERT INTO "events" VALUES(9,1790000003.0,'command.queued','node-b','{"command": "0199-2", "kind": "drain", "actor": "alice", "reason": "because"}');
INSERT INTO "events" VALUES(10,1790000004.0,'command.sent','node-a','{"command": "0199-1", "kind": "restart", "detail": ""}');
INSERT INTO "events" VALUES(11,1790000005.0,'command.done','node-a','{"command": "0199-1", "kind": "restart", "detail": "restarted"}');
CREATE TABLE nodes (
	id VARCHAR(128) NOT NULL, 
	name VARCHAR(256) NOT NULL, 
	machine_id VARCHAR(128) NOT NULL, 
	has_link BOOLEAN NOT NULL, 
	first_seen_wall_at DOUBLE NOT NULL, 
	address VARCHAR(128), 
	healthz_port INTEGER NOT NULL, 
	incarnation VARCHAR(160), 
	software_version VARCHAR(64) NOT NULL, 
	labels JSON NOT NULL, 
	capacity JSON NOT NULL, 
	registered_wall_at DOUBLE, 
	lifecycle VARCHAR(32) NOT NULL, 
	unreachable BOOLEAN NOT NULL, 
	state VARCHAR(32) NOT NULL, 
	state_reason VARCHAR(64) NOT NULL, 
	state_detail TEXT NOT NULL, 
	state_message TEXT NOT NULL, 
	state_since_wall_at DOUBLE NOT NULL, 
	version_id INTEGER NOT NULL, 
	PRIMARY KEY (id)
);
INSERT INTO "nodes" VALUES('node-a','node-a','machine-of-node-a',1,1790000000.25,'10.0.0.1',8000,'01900000-0000-7000-8000-000000000001/1','0.1.0','{"zone": "\u00e4 1"}','{"gpus": 8}',1790000001.5,'active',0,'READY','Why','it''s so','it''s so (since 2026-09-21T14:13:20Z)',1790000002.0,3);
INSERT INTO "nodes" VALUES('node-b','node-b','machine-of-node-b',1,1790000000.25,NULL,0,NULL,'0.1.0','{}','{}',NULL,'maintenance',0,'MAINTENANCE','Why','it''s so','it''s so (since 2026-09-21T14:13:20Z)',1790000002.0,2);
INSERT INTO "nodes" VALUES('node-c','node-c','machine-of-node-c',0,1790000000.25,NULL,0,NULL,'0.1.0','{}','{}',NULL,'active',1,'UNREACHABLE','Why','it''s so','it''s so (since 2026-09-21T14:13:20Z)',1790000002.0,2);
CREATE INDEX ix_nodes_name ON nodes (name);
CREATE INDEX ix_nodes_state ON nodes (state);
CREATE INDEX ix_events_node_id ON events (node_id);
CREATE INDEX commands_by_node ON commands (node_id, id);
CREATE INDEX commands_by_state ON commands (state);
DELETE FROM "sqlite_sequence";
INSERT INTO "sqlite_sequence" VALUES('events',11);
COMMIT;
