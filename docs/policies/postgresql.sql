-- Run by the tables' owner, whose `flask --app app db upgrade` has made them; put in your roles' names.
GRANT SELECT, INSERT, UPDATE ON media TO media_web;
GRANT SELECT, INSERT, UPDATE, DELETE ON media TO media_listener;
-- For `flask media doctor`, whoever runs it.
GRANT SELECT ON alembic_version TO media_web, media_listener;
