// Keeps each event.
const { Emitter } = require("generated");
Emitter.Transfer.handler(async ({ event, context }) => {
  context.Transfer.set({
    id: `${event.block.number}-${event.logIndex}`,
    blockNumber: BigInt(event.block.number),
    from: event.params.from,
    to: event.params.to,
    value: event.params.value,
  });
});
