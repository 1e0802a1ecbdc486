// Inserts each event.
import { ponder } from "ponder:registry";
import { transfer } from "ponder:schema";

ponder.on("Emitter:Transfer", async ({ event, context }) => {
  await context.db.insert(transfer).values({
    id: event.id ?? `${event.block.number}-${event.log.logIndex}`,
    blockNumber: event.block.number,
    from: event.args.from,
    to: event.args.to,
    value: event.args.value,
  });
});
