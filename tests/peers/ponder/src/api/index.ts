// Ponder wants an HTTP app; nothing is asked of it.
import { Hono } from "hono";

export default new Hono();
